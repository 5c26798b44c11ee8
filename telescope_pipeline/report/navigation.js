// Marking where the reader is, and opening what is folded before printing.

const sideLinks = [...document.querySelectorAll(".side a")];
const sectionOf = (link) => document.getElementById(link.hash.slice(1));

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

let openedForPrint = [];
addEventListener("beforeprint", () => {
  openedForPrint = [...document.querySelectorAll("details:not([open])")];
  for (const panel of openedForPrint) panel.open = true;
});
addEventListener("afterprint", () => { for (const panel of openedForPrint) panel.open = false; });
