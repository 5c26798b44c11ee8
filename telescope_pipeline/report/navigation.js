// Marking where the reader is, and opening what is folded for who follows a link, and before printing.

const sideLinks = [...document.querySelectorAll(".side a")];
const sectionOf = (link) => document.getElementById(decodeURIComponent(link.hash.slice(1)));

const markPlace = () => {
  const passed = sideLinks.filter((link) => sectionOf(link).getBoundingClientRect().top < innerHeight * 0.35);
  const current = passed.at(-1);
  for (const link of sideLinks) {
    if (link === current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
};

let waiting = false;
addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; markPlace(); });
}, { passive: true });
markPlace();

const unfold = () => {
  const target = sectionOf(location);
  if (!target) return;
  const own = target.querySelector(":scope > details");
  if (own) own.open = true;
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", unfold);
// A link to where one is already.
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='#']");
  if (link && link.hash === location.hash) unfold();
});
unfold();

// Where there is room, what does not hold is in sight.
const failing = document.querySelector("#failing");
if (failing && matchMedia("(min-width: 68rem)").matches) failing.open = true;

let openedForPrint = [];
addEventListener("beforeprint", () => {
  openedForPrint = [...document.querySelectorAll("details:not([open])")];
  for (const panel of openedForPrint) panel.open = true;
});
addEventListener("afterprint", () => { for (const panel of openedForPrint) panel.open = false; });
