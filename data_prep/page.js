"use strict";
// Tables: a click on a head sorts by that column, a second one the other way round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && !head.classList.contains("n"));
    const key = (row) => { const cell = row.cells[head.cellIndex]; return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v); };
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    const rows = [...body.rows].sort((a, b) => (up ? 1 : -1) * compare(key(a), key(b)));
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...rows);
  });
}
// Lists: a filter over the summaries, and pages.
for (const list of document.querySelectorAll(".list")) {
  const items = [...list.children], size = Number(list.dataset.page);
  if (items.length <= Math.min(size, 12)) continue;
  const tools = document.createElement("div");
  tools.className = "tools";
  tools.innerHTML = '<input type="search" placeholder="filter, for instance by path" aria-label="filter this list">' +
    '<button type="button" aria-label="previous page">‹</button><span></span><button type="button" aria-label="next page">›</button>';
  list.before(tools);
  const [filter, back, place, forward] = tools.children;
  let page = 0;
  const show = () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    const found = items.filter((item) => { const text = item.firstElementChild.textContent.toLowerCase(); return words.every((word) => text.includes(word)); });
    const pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    const shown = new Set(found.slice(page * size, (page + 1) * size));
    for (const item of items) item.hidden = !shown.has(item);
    back.disabled = page === 0;
    forward.disabled = page === pages - 1;
    place.textContent = found.length ? `${page * size + 1}–${page * size + shown.size} of ${found.length}` : "none";
  };
  filter.addEventListener("input", () => { page = 0; show(); });
  back.addEventListener("click", () => { page -= 1; show(); });
  forward.addEventListener("click", () => { page += 1; show(); });
  show();
}
// A link to a folded part unfolds it.
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let e = target; e; e = e.parentElement) { e.hidden = false; if (e.tagName === "DETAILS") e.open = true; }
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();
