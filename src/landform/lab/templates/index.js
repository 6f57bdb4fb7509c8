"use strict";
// Narrows the list of papers as one types. Without scripts the whole list is there.
(() => {
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const texts = (item) => [...item.querySelectorAll("h3, .claim, code, a[href*=arxiv]")].map((part) => part.textContent);
  const search = document.getElementById("search");
  const area = document.getElementById("area");
  const filters = [...document.querySelectorAll("button.filter")];
  const groups = [...document.querySelectorAll("section.area")].map((section) => ({
    section,
    papers: [...section.querySelectorAll("li.paper")].map((item) => ({
      item,
      text: plain([section.dataset.area, ...texts(item)].join(" ")),
    })),
  }));

  function update() {
    const words = plain(search.value).split(/\s+/).filter(Boolean);
    const outcomes = filters.filter((f) => f.getAttribute("aria-pressed") === "true").map((f) => f.dataset.outcome);
    let count = 0;
    for (const { section, papers } of groups) {
      let some = false;
      for (const { item, text } of papers) {
        const shown =
          (!area.value || area.value === section.dataset.area) &&
          (!outcomes.length || outcomes.includes(item.dataset.outcome)) &&
          words.every((word) => text.includes(word));
        item.hidden = !shown;
        some ||= shown;
        count += shown;
      }
      section.hidden = !some;
    }
    document.getElementById("shown").textContent = `${count} shown`;
    document.getElementById("nothing").hidden = count > 0;
  }

  search.addEventListener("input", update);
  area.addEventListener("change", update);
  for (const filter of filters) {
    filter.disabled = filter.dataset.count === "0";
    filter.addEventListener("click", () => {
      filter.setAttribute("aria-pressed", String(filter.getAttribute("aria-pressed") !== "true"));
      update();
    });
  }
  document.getElementById("reset").addEventListener("click", () => {
    search.value = area.value = "";
    filters.forEach((filter) => filter.setAttribute("aria-pressed", "false"));
    update();
    search.focus();
  });
  const form = document.querySelector("form.controls");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  update(); // A browser that goes back to the page fills the fields in again.
})();
