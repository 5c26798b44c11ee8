// Sorting and filtering the table of claims.

const claimsTable = document.querySelector("#claims table.claims");
const claimRows = claimsTable ? [...claimsTable.tBodies[0].rows].filter((row) => row.id) : [];
const collator = new Intl.Collator("en", { numeric: true });
const sortButtons = [...document.querySelectorAll("table.claims thead button")];
const sortChoice = document.querySelector("#sort-claims");

claimRows.forEach((row, n) => { row.dataset.order = n; });

function sortClaims(key, descending) {
  const value = (row) => row.dataset[key] || "";
  const sorted = [...claimRows].sort(
    (a, b) => (descending ? -1 : 1) * collator.compare(value(a), value(b)) || a.dataset.order - b.dataset.order,
  );
  claimsTable.tBodies[0].append(...sorted);
  for (const button of sortButtons) {
    const header = button.closest("th");
    if (button.dataset.key === key) header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else header.removeAttribute("aria-sort");
  }
  sortChoice.value = key;
}

for (const button of sortButtons) {
  button.addEventListener("click", () => {
    sortClaims(button.dataset.key, button.closest("th").getAttribute("aria-sort") === "ascending");
  });
}

if (claimsTable) {
  const words = document.querySelector("#filter-words");
  const verdict = document.querySelector("#filter-verdict");
  const chosenCase = document.querySelector("#filter-case");
  const clear = document.querySelector("#filter-clear");
  const count = document.querySelector("#claims-count");
  const texts = new Map(claimRows.map((row) => [row, row.textContent.toLowerCase()]));

  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of claimRows) {
      const fits = wanted.every((word) => texts.get(row).includes(word))
        && (!verdict.value || row.dataset.verdict === verdict.value)
        && (!chosenCase.value || row.dataset.name === chosenCase.value);
      row.hidden = !fits;
      shown += fits;
    }
    const all = claimRows.length;
    count.textContent = shown === all ? `All ${all} claims` : shown ? `${shown} of ${all} claims` : `None of ${all} claims fits`;
    clear.disabled = shown === all;
  };

  for (const control of [words, verdict, chosenCase]) control.addEventListener("input", filter);
  clear.addEventListener("click", () => {
    for (const control of [words, verdict, chosenCase]) control.value = "";
    filter();
    words.focus();
  });
  sortChoice.addEventListener("input", () => sortClaims(sortChoice.value, false));
  // A link to a claim leads to it whatever the filter.
  addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.hidden) {
      clear.click();
      target.scrollIntoView();
    }
  });
  filter();
}
