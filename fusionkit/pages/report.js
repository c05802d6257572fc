"use strict";
for (const hidden of document.querySelectorAll(".swipe, .opacity, .hint")) hidden.hidden = false;

// A click on a head sorts by that column; once more the other way round. What is undefined is last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    let up = true;
    head.addEventListener("click", () => {
      const value = row => column ? row.cells[column].dataset.v : row.cells[0].textContent;
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b);
        if (column && (x === "" || y === "")) return (x === "") - (y === "");
        const order = column ? x - y : x.localeCompare(y, undefined, {numeric: true});
        return up ? order : -order;
      });
      up = !up;
      body.append(...rows);
    });
  });
}

// Zoom and position of a pair are the same in all its pictures: shares of the width of a view.
for (const pair of document.querySelectorAll(".pair")) {
  const state = {scale: 1, x: 0, y: 0};
  const views = [...pair.querySelectorAll(".linked .view")];
  const draw = () => {
    for (const view of views) {
      const width = view.clientWidth, height = view.clientHeight;
      for (const image of view.querySelectorAll("img"))
        image.style.transform = `translate(${state.x * width}px, ${state.y * height}px) scale(${state.scale})`;
      const over = view.querySelector(".over");
      if (over) {  // the edge stays where it is on the screen
        const at = (view.closest(".swipe").querySelector("input").value / 100 - state.x) / state.scale;
        over.style.clipPath = `inset(0 0 0 ${Math.min(100, Math.max(0, 100 * at))}%)`;
      }
    }
  };
  const keep = () => {
    state.scale = Math.min(40, Math.max(1, state.scale));
    state.x = Math.min(0, Math.max(1 - state.scale, state.x));
    state.y = Math.min(0, Math.max(1 - state.scale, state.y));
    draw();
  };
  for (const view of views) {
    const place = event => {
      const box = view.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    view.addEventListener("wheel", event => {
      event.preventDefault();
      const [x, y] = place(event), before = state.scale;
      state.scale = Math.min(40, Math.max(1, before * Math.exp(-event.deltaY / 300)));
      state.x = x - (x - state.x) * state.scale / before;
      state.y = y - (y - state.y) * state.scale / before;
      keep();
    }, {passive: false});
    let from = null;
    view.addEventListener("pointerdown", event => { from = place(event); view.setPointerCapture(event.pointerId); event.preventDefault(); });
    view.addEventListener("pointermove", event => {
      if (!from) return;
      const to = place(event);
      state.x += to[0] - from[0]; state.y += to[1] - from[1]; from = to;
      keep();
    });
    view.addEventListener("pointerup", () => { from = null; });
    view.addEventListener("dblclick", () => { Object.assign(state, {scale: 1, x: 0, y: 0}); draw(); });
  }
  for (const swipe of pair.querySelectorAll(".swipe")) {
    const source = label => [...pair.querySelectorAll(".tiles figure")]
      .find(figure => figure.querySelector("figcaption").textContent === label).querySelector("img").src;
    const fill = () => {
      swipe.querySelector(".under").src = source(swipe.querySelector(".left").value);
      swipe.querySelector(".over").src = source(swipe.querySelector(".right").value);
      draw();
    };
    for (const control of swipe.querySelectorAll("select, input")) control.addEventListener("input", fill);
    fill();
  }
  for (const slider of pair.querySelectorAll(".opacity input")) {
    slider.addEventListener("input", () => {
      for (const map of slider.closest("h4").nextElementSibling.querySelectorAll(".map:not(:only-child)"))
        map.style.opacity = slider.value / 100;
    });
  }
}
