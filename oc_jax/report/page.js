"use strict";
// One guide through all panels of the curves, with the values at that place.
for (const box of document.querySelectorAll(".curves")) {
  const rows = JSON.parse(box.querySelector("script").textContent);
  const panels = [...box.querySelectorAll("svg.panel")];
  const readout = box.querySelector(".readout");
  const guides = panels.map((panel) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "guide");
    line.setAttribute("y1", panel.dataset.top);
    line.setAttribute("y2", panel.dataset.bottom);
    line.style.display = "none";
    return panel.appendChild(line);
  });
  const show = (on) => {
    readout.hidden = !on;
    for (const guide of guides) guide.style.display = on ? "" : "none";
  };
  box.addEventListener("mouseleave", () => show(false));
  box.addEventListener("mousemove", (event) => {
    const frame = panels[0].getBoundingClientRect();
    const x = ((event.clientX - frame.left) / frame.width) * panels[0].viewBox.baseVal.width;
    let low = 0, high = rows.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle][0] < x) low = middle + 1; else high = middle;
    }
    if (low > 0 && x - rows[low - 1][0] < rows[low][0] - x) low -= 1;
    show(true);
    for (const guide of guides) { guide.setAttribute("x1", rows[low][0]); guide.setAttribute("x2", rows[low][0]); }
    readout.textContent = rows[low][1];
    const place = box.getBoundingClientRect();
    const left = event.clientX - place.left;
    readout.style.left = (left + 18 + readout.offsetWidth > place.width ? left - 18 - readout.offsetWidth : left + 18) + "px";
    readout.style.top = Math.max(0, event.clientY - place.top - 20) + "px";
  });
}
// A link to a folded part unfolds it.
const unfold = () => {
  for (let e = document.getElementById(location.hash.slice(1)); e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
};
addEventListener("hashchange", unfold);
unfold();
