// Tables are sorted by a click on a column's head, pictures open large, and print shows what is folded.
for (const head of document.querySelectorAll(".sortable thead th")) {
  head.tabIndex = 0;
  const sort = () => {
    const body = head.closest("table").tBodies[0], place = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending", key = (row) => {
      const cell = row.cells[place], text = cell.dataset.sort ?? cell.textContent.trim();
      return text === "" || isNaN(text) ? text : Number(text);
    };
    const before = (a, b) => typeof a === typeof b ? (a > b) - (a < b) : typeof a === "number" ? -1 : 1;
    const rows = [...body.rows].sort((a, b) => before(key(a), key(b)) * (down ? -1 : 1));
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  };
  head.onclick = sort;
  head.onkeydown = (event) => event.key === "Enter" && sort();
}
const large = document.querySelector("dialog");
large.onclick = () => large.close();
for (const link of document.querySelectorAll("a.large")) {
  link.onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    large.innerHTML = "";
    large.append(Object.assign(new Image(), { src: link.href, alt: link.title }));
    large.showModal();
  };
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
