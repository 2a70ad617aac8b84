
"use strict";
(() => {
  const list = document.querySelector("nav ul");
  const items = [...list.children];
  const place = document.getElementById("place");
  const main = document.querySelector("main");

  const shown = () => [...list.children].filter((item) => !item.hidden);
  const target = (item) => item.firstElementChild.hash;

  function show(hash) {
    const visible = shown();
    const now = visible.find((item) => target(item) === hash) || visible[0];
    document.querySelectorAll("main section").forEach((section) => {
      section.classList.toggle("now", "#" + section.id === target(now));
    });
    items.forEach((item) => item.classList.toggle("now", item === now));
    now.scrollIntoView({ block: "nearest" });
    main.scrollTop = 0;
    const number = visible.indexOf(now);
    place.textContent = number === 0 ? "" : `case ${number} of ${visible.length - 1}`;
  }

  function go(to) {
    const visible = shown();
    const number = Math.max(0, Math.min(visible.length - 1, to(visible)));
    history.replaceState(null, "", target(visible[number]));
    show(target(visible[number]));
  }

  const current = (visible) => visible.findIndex((item) => item.classList.contains("now"));
  const next = () => go((visible) => current(visible) + 1);
  const previous = () => go((visible) => current(visible) - 1);

  function sort(by) {
    const grave = (one, other) => one.dataset.grave - other.dataset.grave;
    const name = (one, other) => one.dataset.name.localeCompare(other.dataset.name, undefined, { numeric: true });
    items.sort((one, other) => (by === "grave" && grave(one, other)) || name(one, other));
    list.append(...items);
    show(location.hash);
  }

  document.querySelectorAll("[data-filter]").forEach((button) => {
    button.addEventListener("click", () => {
      const filter = button.dataset.filter;
      document.querySelectorAll("[data-filter]").forEach((each) => each.setAttribute("aria-pressed", each === button));
      items.forEach((item) => {
        item.hidden = filter !== "all" && "severity" in item.dataset && item.dataset.severity !== filter;
      });
      document.querySelectorAll("main section").forEach((section) => {
        section.hidden = items.some((item) => item.hidden && target(item) === "#" + section.id);
      });
      show(location.hash);
    });
  });
  document.getElementById("order").addEventListener("change", (event) => {
    sort(event.target.value);
    main.focus(); // else the arrow keys would go on changing the order
  });
  document.getElementById("next").addEventListener("click", next);
  document.getElementById("previous").addEventListener("click", previous);
  window.addEventListener("hashchange", () => show(location.hash));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
    const steps = { ArrowRight: next, ArrowLeft: previous, Home: () => go(() => 0), End: () => go((all) => all.length - 1) };
    if (!(event.key in steps)) return;
    event.preventDefault();
    main.focus({ preventScroll: true }); // so that Page Down and the space bar scroll what is shown
    steps[event.key]();
  });
  document.body.classList.add("js");
  sort("grave");
  main.focus({ preventScroll: true });
})();
