// The inspector in the browser: draws what the kernel sends as plain numbers, so that zoom, swipe,
// opacity and values under the cursor need no round trip. Nothing is fetched from anywhere.

const IMAGES = ["infrared", "visible", "fused", "difference", "compare", "features", "heat map"];
const HELP = [
  ["↑ ↓  or  k j", "previous, next pair"],
  ["← →", "previous, next channel or page of channels"],
  ["g c m r", "layer as grid, one channel, mean, main directions as colours"],
  ["l", "next layer"],
  ["p", "next prompt of the heat map"],
  ["[ ]", "heat map fainter, stronger"],
  ["s", "exchange the two compared pictures"],
  ["o", "next outlier"],
  ["1 … 7", "show or hide a pane"],
  ["+ − 0", "zoom in, zoom out, whole picture; after a click also with the wheel, drag to move"],
  ["Enter, Esc", "the pane under the pointer alone, all panes"],
  ["e, y", "save the view as PNG, show it as code"],
];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const digits = (value) =>
  value === null || !Number.isFinite(value) ? "–" : String(Number(value.toPrecision(4)));

// A picture or map as 16-bit steps; the last step says that there is no value.
class Raster {
  constructor(facts, buffer) {
    Object.assign(this, facts);
    const bytes = buffer.buffer ? buffer : new DataView(buffer);
    const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    this.steps = new Uint16Array(copy);
    this.unit = (this.high - this.low) / 65534;
  }
  value(band, index) {
    const step = this.steps[band * this.height * this.width + index];
    return step === 65535 ? NaN : this.low + step * this.unit;
  }
  at(u, v) {
    const x = clamp(Math.floor(u * this.width), 0, this.width - 1);
    const y = clamp(Math.floor(v * this.height), 0, this.height - 1);
    return [x, y, y * this.width + x];
  }
}

// Where the channels of a picture of one or three bands begin.
function bandsOf(raster) {
  const size = raster.width * raster.height;
  return raster.bands >= 3 ? [0, size, 2 * size] : [0, 0, 0];
}

function canvasOf(width, height, fill) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  fill(image.data);
  context.putImageData(image, 0, 0);
  return canvas;
}

function paintPicture(raster) {
  const { steps, width, height, unit, low } = raster;
  const [red, green, blue] = bandsOf(raster);
  return canvasOf(width, height, (out) => {
    for (let i = 0, o = 0; i < width * height; i++, o += 4) {
      // NaN is white: 65535 maps to the highest value or more.
      out[o] = steps[red + i] === 65535 ? 255 : (low + steps[red + i] * unit) * 255;
      out[o + 1] = steps[green + i] === 65535 ? 255 : (low + steps[green + i] * unit) * 255;
      out[o + 2] = steps[blue + i] === 65535 ? 255 : (low + steps[blue + i] * unit) * 255;
      out[o + 3] = 255;
    }
  });
}

function paintMap(raster, band, limits, colors) {
  const { steps, width, height, unit, low } = raster;
  const offset = band * width * height;
  const scale = 256 / Math.max(limits[1] - limits[0], 1e-12);
  return canvasOf(width, height, (out) => {
    for (let i = 0, o = 0; i < width * height; i++, o += 4) {
      const step = steps[offset + i];
      const index = clamp(Math.floor((low + step * unit - limits[0]) * scale), 0, 255) * 3;
      out[o] = step === 65535 ? 255 : colors[index];
      out[o + 1] = step === 65535 ? 255 : colors[index + 1];
      out[o + 2] = step === 65535 ? 255 : colors[index + 2];
      out[o + 3] = 255;
    }
  });
}

function paintDifference(first, second, gain) {
  const { width, height } = first;
  const a = bandsOf(first), b = bandsOf(second);
  return canvasOf(width, height, (out) => {
    for (let i = 0, o = 0; i < width * height; i++, o += 4) {
      for (let band = 0; band < 3; band++) {
        const left = first.low + first.steps[a[band] + i] * first.unit;
        const right = second.low + second.steps[b[band] + i] * second.unit;
        out[o + band] = (0.5 + gain * (left - right)) * 255;
      }
      out[o + 3] = 255;
    }
  });
}

// The picture turns grey, so that colour means heat alone; the warmer, the less of it shows.
function paintHeat(base, heat, highest, opacity, colors) {
  const { width, height } = base;
  const [red, green, blue] = bandsOf(base);
  const same = heat.width === width && heat.height === height;
  return canvasOf(width, height, (out) => {
    for (let y = 0, i = 0, o = 0; y < height; y++) {
      const v = clamp(((y + 0.5) * heat.height) / height - 0.5, 0, heat.height - 1);
      const top = Math.floor(v), down = Math.min(top + 1, heat.height - 1), dv = v - top;
      for (let x = 0; x < width; x++, i++, o += 4) {
        let warmth;
        if (same) warmth = heat.value(0, i);
        else {
          const u = clamp(((x + 0.5) * heat.width) / width - 0.5, 0, heat.width - 1);
          const left = Math.floor(u), right = Math.min(left + 1, heat.width - 1), du = u - left;
          warmth =
            (heat.value(0, top * heat.width + left) * (1 - du) +
              heat.value(0, top * heat.width + right) * du) * (1 - dv) +
            (heat.value(0, down * heat.width + left) * (1 - du) +
              heat.value(0, down * heat.width + right) * du) * dv;
        }
        warmth = clamp(warmth / highest || 0, 0, 1);
        const grey =
          base.low +
          base.unit *
            (0.299 * base.steps[red + i] + 0.587 * base.steps[green + i] + 0.114 * base.steps[blue + i]);
        const weight = opacity * warmth;
        const index = Math.min(255, Math.floor(warmth * 256)) * 3;
        for (let band = 0; band < 3; band++) {
          out[o + band] = (1 - weight) * grey * 255 + weight * colors[index + band];
        }
        out[o + 3] = 255;
      }
    }
  });
}

// One pane: a canvas with its heading, drawn through the window that all panes share.
class Pane {
  constructor(view, name) {
    this.view = view;
    this.name = name;
    this.about = null;
    this.painted = [];
    this.canvas = make("canvas", { className: "fk-canvas" });
    this.caption = make("span", { className: "fk-caption" });
    this.values = make("span", { className: "fk-values" });
    this.text = make("div", { className: "fk-text" });
    this.controls = make("div", { className: "fk-controls" });
    this.solo = make("button", {
      className: "fk-small", title: "this pane alone (Enter)", textContent: "⤢",
      onclick: () => view.toggleSolo(name),
    });
    this.element = make(
      "div", { className: "fk-pane" },
      make("div", { className: "fk-head" }, this.caption, this.values, this.solo),
      this.canvas, this.text, this.controls,
    );
    this.element.dataset.pane = name;
    this.listen();
  }

  show(about) {
    this.about = about;
    this.caption.textContent = about.caption;
    this.caption.title = about.caption;
    this.text.textContent = about.hole || about.text || "";
    this.text.title = this.text.textContent;
    this.paint();
    this.draw();
  }

  raster(key) {
    return this.view.rasters.get(key);
  }

  paint() {
    const about = this.about, maps = this.view.colors;
    this.painted = [];
    if (!about || about.hole) return;
    if (this.name === "difference") {
      this.painted = [paintDifference(this.raster(about.first), this.raster(about.second), about.gain)];
    } else if (this.name === "compare") {
      this.painted = [this.view.picture(about.first), this.view.picture(about.second)];
    } else if (this.name === "heat map") {
      const [base, heat] = [this.raster(about.base), this.raster(about.raster)];
      this.painted = [paintHeat(base, heat, about.top, this.view.model.get("opacity"), maps.inferno)];
    } else if (about.channels) {
      const raster = this.raster(about.raster);
      this.painted = about.channels.map((_, i) => paintMap(raster, i, about.limits[i], maps.viridis));
    } else if (about.limits) {
      this.painted = [paintMap(this.raster(about.raster), 0, about.limits, maps.viridis)];
    } else {
      this.painted = [this.view.picture(about.raster)];
    }
  }

  // As many down as across, so that a tile has the shape of the picture.
  tiles() {
    const across = Math.ceil(Math.sqrt(this.painted.length));
    return [across, across];
  }

  // Draw one painted picture into a rectangle, through the shared window.
  place(context, painted, x, y, width, height) {
    const [left, top, right, bottom] = this.view.window;
    context.imageSmoothingEnabled = (right - left) * painted.width > width;
    context.drawImage(
      painted,
      left * painted.width, top * painted.height,
      (right - left) * painted.width, (bottom - top) * painted.height,
      x, y, width, height,
    );
  }

  render(context, width, height) {
    context.fillStyle = "#ececec";
    context.fillRect(0, 0, width, height);
    if (!this.about || !this.painted.length) {
      context.fillStyle = "#666";
      context.font = `${Math.round(13 * (devicePixelRatio || 1))}px sans-serif`;
      context.fillText(this.about ? "not computed" : "…", 12, 24);
      return;
    }
    if (this.name === "compare") {
      const edge = Math.round(this.view.edge() * width);
      for (const [i, from, to] of [[0, 0, edge], [1, edge, width]]) {
        context.save();
        context.beginPath();
        context.rect(from, 0, to - from, height);
        context.clip();
        this.place(context, this.painted[i], 0, 0, width, height);
        context.restore();
      }
      context.fillStyle = "#fff";
      context.fillRect(edge - 1, 0, 2, height);
      return;
    }
    if (!this.about.channels) return this.place(context, this.painted[0], 0, 0, width, height);
    const [across, down] = this.tiles();
    context.font = `${Math.max(9, Math.round(height / down / 9))}px sans-serif`;
    this.painted.forEach((painted, i) => {
      const x = Math.round(((i % across) * width) / across);
      const y = Math.round((Math.floor(i / across) * height) / down);
      const right = Math.round((((i % across) + 1) * width) / across);
      const bottom = Math.round(((Math.floor(i / across) + 1) * height) / down);
      this.place(context, painted, x, y, right - x - 1, bottom - y - 1);
      context.fillStyle = "#fff";
      context.strokeStyle = "#000";
      context.lineWidth = 2;
      context.strokeText(this.about.channels[i], x + 3, y + 12);
      context.fillText(this.about.channels[i], x + 3, y + 12);
    });
  }

  draw() {
    const ratio = devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(width * this.view.aspect));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.render(this.canvas.getContext("2d"), width, height);
    // For tests and screen readers: what is drawn, and how often it was.
    this.canvas.dataset.drawn = Number(this.canvas.dataset.drawn || 0) + 1;
    this.canvas.setAttribute("aria-label", this.about ? this.about.caption : this.name);
  }

  // From the pointer to shares of the picture, and which tile it is in.
  locate(event) {
    const box = this.canvas.getBoundingClientRect();
    let x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    let tile = 0;
    if (this.about && this.about.channels && this.painted.length) {
      const [across, down] = this.tiles();
      const column = clamp(Math.floor(x * across), 0, across - 1);
      const row = clamp(Math.floor(y * down), 0, down - 1);
      tile = row * across + column;
      [x, y] = [x * across - column, y * down - row];
    }
    const [left, top, right, bottom] = this.view.window;
    return { u: left + x * (right - left), v: top + y * (bottom - top), x, y, tile };
  }

  listen() {
    let drag = null;
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => {
      const spot = this.locate(event);
      const swiping = this.name === "compare" && Math.abs(spot.x - this.view.edge()) < 0.04;
      drag = { spot, swiping, window: [...this.view.window], moved: false };
      canvas.setPointerCapture(event.pointerId);
      this.view.root.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      const spot = this.locate(event);
      this.view.point(this, spot);
      if (!drag) {
        const near = this.name === "compare" && Math.abs(spot.x - this.view.edge()) < 0.04;
        canvas.style.cursor = near ? "col-resize" : "crosshair";
        return;
      }
      if (Math.abs(spot.x - drag.spot.x) + Math.abs(spot.y - drag.spot.y) > 0.01) drag.moved = true;
      if (drag.swiping) return this.view.swipeTo(spot.u);
      const [left, top, right, bottom] = drag.window;
      const du = (drag.spot.x - spot.x) * (right - left);
      const dv = (drag.spot.y - spot.y) * (bottom - top);
      if (drag.moved) this.view.look([left + du, top + dv, right + du, bottom + dv]);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag && !drag.moved && this.about && this.about.channels) {
        const { tile } = this.locate(event);
        if (tile < this.about.channels.length) {
          this.view.set({ channel: this.about.channels[tile], how: "channel" });
        }
      }
      drag = null;
    });
    canvas.addEventListener("pointercancel", () => (drag = null));
    canvas.addEventListener("pointerleave", () => this.view.point(null));
    canvas.addEventListener("dblclick", () => this.view.look([0, 0, 1, 1]));
    canvas.addEventListener("wheel", (event) => {
      // Until the view was clicked, the wheel scrolls the notebook past it.
      if (!this.view.root.contains(document.activeElement) && !event.ctrlKey) return;
      event.preventDefault();
      const spot = this.locate(event);
      this.view.zoom(Math.exp(-event.deltaY / 300), spot.u, spot.v);
    }, { passive: false });
  }

  // Values under the pointer, as numbers.
  read(u, v, tile) {
    const about = this.about;
    if (!about || about.hole) return "";
    const numbers = (key, band) => {
      const raster = this.raster(key);
      if (!raster) return "";
      const index = raster.at(u, v)[2];
      if (band !== undefined) return digits(raster.value(band, index));
      const bands = raster.bands >= 3 ? [0, 1, 2] : [0];
      return bands.map((b) => digits(raster.value(b, index))).join(" ");
    };
    if (this.name === "difference") {
      const [a, b] = [this.raster(about.first), this.raster(about.second)];
      const index = a.at(u, v)[2];
      const wide = Math.max(a.bands, b.bands) >= 3 ? [0, 1, 2] : [0];
      const of = (raster, band) => raster.value(raster.bands >= 3 ? band : 0, index);
      return wide.map((band) => digits(of(a, band) - of(b, band))).join(" ");
    }
    if (this.name === "compare") return `${numbers(about.first)} | ${numbers(about.second)}`;
    if (about.channels) {
      return tile < about.channels.length ? `${about.channels[tile]}: ${numbers(about.raster, tile)}` : "";
    }
    return numbers(about.raster);
  }
}

class View {
  constructor(model, el) {
    this.model = model;
    this.rasters = new Map();
    this.pictures = new Map();
    this.colors = model.get("colormaps");
    this.window = [...model.get("window")];
    this.aspect = 0.75;
    this.ranking = null;
    this.thumbs = new Map();
    this.hovered = null;
    this.solo = null;
    this.tab = null;
    this.sorted = { column: null, down: true, outliers: false };
    this.stops = [];
    this.direction = 1;
    // The lab's shortcuts would otherwise act on the cell while keys are typed here.
    this.root = make("div", { className: "fk-inspector", tabIndex: 0 });
    this.root.setAttribute("data-lm-suppress-shortcuts", "true");
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.panes = Object.fromEntries(IMAGES.map((name) => [name, new Pane(this, name)]));
    this.build();
    el.append(this.root);
    this.on("msg:custom", (message, buffers) => this.hear(message, buffers));
    for (const trait of ["options", "panes", "pairs", "notice", "message", "title", "can_ask"]) {
      this.on(`change:${trait}`, () => this.fill());
    }
    this.on("change:pair", () => this.mark());
    this.on("change:opacity", () => this.repaint("heat map"));
    this.on("change:swipe", () => this.panes.compare.draw());
    this.on("change:window", () => this.look(model.get("window"), false));
    this.resize = new ResizeObserver(() => this.draw());
    this.resize.observe(this.grid);
    this.fill();
    model.send({ kind: "ready" });
  }

  on(event, act) {
    this.model.on(event, act);
    this.stops.push(() => this.model.off(event, act));
  }

  remove() {
    this.stops.forEach((stop) => stop());
    this.resize.disconnect();
    this.seen?.disconnect();
    clearTimeout(this.later);
    clearTimeout(this.waiting);
    clearTimeout(this.ahead);
    this.thumbs.forEach((url) => url && URL.revokeObjectURL(url));
  }

  set(values) {
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  // --- layout ---

  build() {
    this.heading = make("b", { className: "fk-title" });
    this.notice = make("div", { className: "fk-notice" });
    this.message = make("div", { className: "fk-message" });
    this.scores = make("div", { className: "fk-scores" });
    this.cursor = make("span", { className: "fk-cursor" });
    this.list = make("div", { className: "fk-list" });
    this.filter = make("input", {
      type: "search", placeholder: "find a pair", className: "fk-filter", oninput: () => this.fillList(),
    });
    this.grid = make("div", { className: "fk-grid" });
    this.shown = make("span", { className: "fk-shown" });
    this.below = make("div", { className: "fk-below" });
    this.prompt = make("input", {
      type: "text", className: "fk-prompt", placeholder: "a new prompt for this pair",
      onkeydown: (event) => event.key === "Enter" && this.ask(),
    });
    this.askButton = make("button", { textContent: "fuse", className: "fk-ask", onclick: () => this.ask() });
    this.asking = make("span", { className: "fk-asking" }, this.prompt, this.askButton);
    const tab = (name) =>
      make("button", { textContent: name, className: "fk-tab", onclick: () => this.open(name) });
    this.tabs = ["scores", "curves", "recipe", "code", "keys"].map(tab);
    const bar = make(
      "div", { className: "fk-bar" },
      this.heading, this.shown, this.asking,
      make("button", { textContent: "refresh", title: "read the run anew", className: "fk-refresh",
        onclick: () => this.model.send({ kind: "refresh" }) }),
      make("button", { textContent: "PNG", title: "save the view (e)", className: "fk-png", onclick: () => this.png() }),
    );
    this.root.append(
      bar, this.notice, this.message,
      make("div", { className: "fk-main" },
        make("div", { className: "fk-side" }, this.filter, this.list),
        make("div", { className: "fk-view" }, this.grid, this.scores,
          make("div", { className: "fk-bar" }, ...this.tabs, this.cursor), this.below)),
    );
    for (const name of IMAGES) this.grid.append(this.panes[name].element);
    this.bind();
  }

  choice(trait, label, values) {
    const select = make("select", { title: label, onchange: () => this.set({ [trait]: select.value }) });
    select.dataset.trait = trait;
    const fill = () => {
      const options = values();
      select.replaceChildren(...options.map((value) => make("option", { value, textContent: value })));
      select.value = this.model.get(trait);
    };
    this.on("change:options", fill);
    this.on(`change:${trait}`, () => (select.value = this.model.get(trait)));
    fill();
    return select;
  }

  range(trait, label, step = 0.01) {
    const input = make("input", {
      type: "range", title: label, min: 0, max: 1, step,
      oninput: () => this.set({ [trait]: Number(input.value) }),
    });
    input.dataset.trait = trait;
    input.value = this.model.get(trait);
    this.on(`change:${trait}`, () => (input.value = this.model.get(trait)));
    return input;
  }

  bind() {
    const images = () => this.model.get("options").images;
    const versus = () => make("span", { className: "fk-row" }, this.choice("first", "first", images),
      make("button", { textContent: "⇄", className: "fk-small fk-exchange", title: "exchange (s)", onclick: () => this.exchange() }),
      this.choice("second", "second", images));
    this.panes.fused.controls.append(this.choice("fused", "picture", images));
    const gain = make("select", { title: "stretch", onchange: () => this.set({ gain: Number(gain.value) }) },
      ...[["0", "largest"], ["1", "×1"], ["2", "×2"], ["5", "×5"], ["10", "×10"]].map(([value, text]) =>
        make("option", { value, textContent: text })));
    gain.dataset.trait = "gain";
    gain.value = String(this.model.get("gain"));
    this.on("change:gain", () => (gain.value = String(this.model.get("gain"))));
    this.panes.difference.controls.append(versus(), gain);
    this.panes.compare.controls.append(versus(), this.range("swipe", "swipe"));

    this.slider = make("input", { type: "range", min: 0, max: 0, step: 1, title: "channel", oninput: () => this.slide() });
    this.slider.dataset.trait = "channel";
    this.place = make("span", { className: "fk-place" });
    const layers = () => Object.keys(this.model.get("options").features);
    this.panes.features.controls.append(
      this.choice("layer", "layer", layers),
      this.choice("how", "as", () => ["grid", "channel", "mean", "colors"]),
      this.choice("order", "order of channels", () => ["response", "index"]),
      this.choice("scale", "colours over", () => ["map", "layer"]),
      make("span", { className: "fk-row fk-wide" }, this.slider, this.place),
    );
    for (const trait of ["layer", "how", "order", "channel", "page"]) {
      this.on(`change:${trait}`, () => this.fit());
    }
    this.prompts = make("span", { className: "fk-row fk-prompts" });
    this.panes["heat map"].controls.append(
      this.choice("heatmap", "heat map", () => this.model.get("options").heatmaps),
      make("label", { textContent: "over " }, this.choice("over", "over", images)),
      make("span", { className: "fk-row" }, "opacity", this.range("opacity", "opacity ([ and ])"),
        this.choice("heat_scale", "the last colour is 1, or the map's highest value", () => ["absolute", "own"])),
      this.prompts,
    );
  }

  fill() {
    this.heading.textContent = this.model.get("title");
    this.notice.textContent = this.model.get("notice");
    this.message.textContent = this.model.get("message");
    this.asking.hidden = !this.model.get("can_ask");
    const shown = this.model.get("panes");
    this.shown.replaceChildren(...IMAGES.map((name, i) =>
      make("label", { title: `${i + 1}` },
        make("input", { type: "checkbox", checked: shown.includes(name), onchange: () => this.toggle(name) }), name)));
    for (const name of IMAGES) {
      this.panes[name].element.hidden = !shown.includes(name) || (this.solo && this.solo !== name);
    }
    this.grid.classList.toggle("fk-solo", Boolean(this.solo));
    this.fillList();
    this.fit();
    this.draw();
  }

  fillList() {
    const wanted = this.filter.value.toLowerCase();
    const pairs = this.model.get("pairs").filter((pair) => pair.toLowerCase().includes(wanted));
    if (JSON.stringify(pairs) === this.listed) return this.mark();
    this.listed = JSON.stringify(pairs);
    this.seen?.disconnect();
    this.seen = new IntersectionObserver((entries) => {
      const asked = entries
        .filter((entry) => entry.isIntersecting && !this.thumbs.has(entry.target.dataset.pair))
        .map((entry) => entry.target.dataset.pair);
      asked.forEach((pair) => this.thumbs.set(pair, null));
      for (let i = 0; i < asked.length; i += 4) {
        this.model.send({ kind: "thumbs", pairs: asked.slice(i, i + 4) });
      }
    }, { root: this.list });
    this.list.replaceChildren(...pairs.map((pair) => {
      const image = make("img", { alt: "", src: this.thumbs.get(pair) || "" });
      const row = make("button", { className: "fk-pair", title: pair, onclick: () => this.go(pair) },
        image, make("span", { textContent: pair }));
      row.dataset.pair = pair;
      this.seen.observe(row);
      return row;
    }));
    this.mark();
  }

  mark() {
    const pair = this.model.get("pair");
    for (const row of this.list.children) {
      const here = row.dataset.pair === pair;
      row.classList.toggle("fk-here", here);
      if (here) {
        const [top, bottom] = [row.offsetTop, row.offsetTop + row.offsetHeight];
        if (top < this.list.scrollTop) this.list.scrollTop = top;
        if (bottom > this.list.scrollTop + this.list.clientHeight) {
          this.list.scrollTop = bottom - this.list.clientHeight;
        }
      }
    }
    for (const row of this.below.querySelectorAll("tr[data-pair]")) {
      row.classList.toggle("fk-here", row.dataset.pair === pair);
    }
  }

  // The slider runs over the channels of a layer, or over the pages of the grid.
  fit() {
    const layer = this.model.get("layer"), how = this.model.get("how");
    const count = this.model.get("options").features[layer] || 1;
    const grid = how === "grid";
    this.slider.parentElement.hidden = !(grid || how === "channel");
    if (grid) {
      const pages = this.panes.features.about?.pages || 1;
      this.slider.max = pages - 1;
      this.slider.value = this.model.get("page");
      this.slider.parentElement.hidden = pages < 2;
      this.place.textContent = `page ${Number(this.slider.value) + 1} of ${pages}`;
      return;
    }
    this.slider.max = count - 1;
    const channel = this.model.get("channel");
    const known = this.order();
    const at = known ? known.indexOf(channel) : channel;
    this.slider.value = at;
    this.place.textContent = known ? `${at + 1} of ${count} by response` : `${channel} of ${count}`;
    if (how === "channel" && this.model.get("order") === "response" && !known) {
      // The order needs the whole layer: asked for once nobody is sliding.
      clearTimeout(this.later);
      this.later = setTimeout(() => this.model.send({ kind: "ranking" }), 200);
    }
  }

  order() {
    if (this.model.get("order") === "index" || !this.ranking) return null;
    const { layer, pair, ranking } = this.ranking;
    return layer === this.model.get("layer") && pair === this.model.get("pair") ? ranking : null;
  }

  slide() {
    const at = Number(this.slider.value);
    if (this.model.get("how") === "grid") return this.set({ page: at });
    this.set({ channel: (this.order() || [])[at] ?? at });
  }

  // --- messages ---

  hear(message, buffers) {
    if (message.kind === "pair") {
      this.rasters.clear();
      this.pictures.clear();
      this.prepare("pictures", 300);
      this.scores.replaceChildren(...Object.entries(message.facts).map(([name, value]) =>
        make("span", { className: "fk-score" }, make("i", { textContent: name }), ` ${digits(value)}`)));
      this.mark();
    } else if (message.kind === "pane") {
      message.rasters.forEach((facts, i) => {
        this.rasters.set(facts.key, new Raster(facts, buffers[i]));
        this.pictures.delete(facts.key);
      });
      const first = this.rasters.get(message.about.raster || message.about.first);
      if (first && ["visible", "infrared", "fused"].includes(message.name)) {
        const aspect = first.height / first.width;
        if (Math.abs(aspect - this.aspect) > 1e-3) {
          this.aspect = aspect;
          this.draw();
        }
      }
      this.panes[message.name].show(message.about);
      if (message.name === "features") this.fit();
      if (message.name === "heat map") this.fillPrompts(message.about);
    } else if (message.kind === "thumb") {
      const url = URL.createObjectURL(new Blob([buffers[0]], { type: "image/jpeg" }));
      this.thumbs.set(message.pair, url);
      for (const row of this.list.children) {
        if (row.dataset.pair === message.pair) row.querySelector("img").src = url;
      }
    } else if (message.kind === "ranking") {
      this.ranking = { layer: message.layer, pair: this.model.get("pair"), ranking: message.ranking };
      this.fit();
    } else if (message.kind === "done" && message.of === "ahead") {
      if (this.part === "pictures") this.prepare("features", 100);
    } else if (message.kind === "done" && message.of === "ask") {
      this.askButton.disabled = false;
      this.askButton.textContent = "fuse";
    } else if (message.kind === this.tab || (message.kind === "about" && this.tab === "recipe") ||
               (message.kind === "table" && this.tab === "scores")) {
      this[`fill_${message.kind}`](message);
    }
  }

  // Have the kernel read the next pair while nobody waits: in parts, so that a click can come between.
  prepare(part, delay) {
    const pairs = this.model.get("pairs");
    const pair = this.step(pairs, this.model.get("pair"), this.direction);
    clearTimeout(this.ahead);
    this.ahead = setTimeout(() => {
      this.part = part;
      this.model.send({ kind: "ahead", pair, part });
    }, delay);
  }

  fillPrompts(about) {
    this.prompts.replaceChildren(...(about.prompts || []).map((prompt, i) =>
      make("button", {
        textContent: prompt, title: prompt, className: i === about.prompt ? "fk-small fk-on" : "fk-small",
        onclick: () => this.set({ prompt: i }),
      })));
  }

  picture(key) {
    if (!this.pictures.has(key)) this.pictures.set(key, paintPicture(this.rasters.get(key)));
    return this.pictures.get(key);
  }

  draw() {
    for (const name of IMAGES) if (!this.panes[name].element.hidden) this.panes[name].draw();
  }

  repaint(name) {
    if (!this.model.get("panes").includes(name)) return;
    this.panes[name].paint();
    this.panes[name].draw();
  }

  // --- looking ---

  look(window, tell = true) {
    let [left, top, right, bottom] = window;
    const wide = clamp(right - left, 0.005, 1), high = clamp(bottom - top, 0.005, 1);
    left = clamp(left, 0, 1 - wide);
    top = clamp(top, 0, 1 - high);
    this.window = [left, top, left + wide, top + high];
    this.draw();
    if (!tell) return;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.set({ window: this.window }), 150);
  }

  zoom(factor, u = null, v = null) {
    const [left, top, right, bottom] = this.window;
    u ??= (left + right) / 2;
    v ??= (top + bottom) / 2;
    const wide = clamp((right - left) / factor, 0.005, 1), share = wide / (right - left);
    const high = clamp((bottom - top) * share, 0.005, 1);
    const x = u - (u - left) * share, y = v - (v - top) * share;
    this.look([x, y, x + wide, y + high]);
  }

  edge() {
    const [left, , right] = this.window;
    return clamp((this.model.get("swipe") - left) / (right - left), 0, 1);
  }

  swipeTo(u) {
    this.set({ swipe: clamp(u, 0, 1) });
    this.panes.compare.draw();
  }

  point(pane, spot) {
    this.hovered = pane;
    for (const name of IMAGES) {
      const other = this.panes[name];
      const tile = other === pane ? spot.tile : 0;
      other.values.textContent = pane && !other.element.hidden ? other.read(spot.u, spot.v, tile) : "";
    }
    if (!pane) return (this.cursor.textContent = "");
    const raster = this.rasters.get(this.model.get("fused")) || this.rasters.values().next().value;
    if (!raster || spot.u < 0 || spot.v < 0) return;
    const [x, y] = raster.at(spot.u, spot.v);
    this.cursor.textContent = `x ${x}, y ${y}`;
  }

  toggle(name) {
    const shown = this.model.get("panes");
    const panes = IMAGES.filter((pane) => shown.includes(pane) !== (pane === name));
    if (panes.length) this.set({ panes });
    else this.fill();
  }

  toggleSolo(name) {
    this.solo = this.solo === name ? null : name;
    this.fill();
  }

  go(pair) {
    const pairs = this.model.get("pairs");
    if (pairs.includes(pair)) {
      clearTimeout(this.ahead);
      this.direction = pairs.indexOf(pair) < pairs.indexOf(this.model.get("pair")) ? -1 : 1;
      this.set({ pair });
    } else this.message.textContent = `the run kept no pictures of ${pair}, only its scores.`;
  }

  step(list, now, by) {
    return list[(list.indexOf(now) + by + list.length) % list.length];
  }

  exchange() {
    this.set({ first: this.model.get("second"), second: this.model.get("first") });
  }

  ask() {
    if (!this.prompt.value.trim()) return;
    this.askButton.disabled = true;
    this.askButton.textContent = "fusing …";
    this.model.send({ kind: "ask", prompt: this.prompt.value });
  }

  key(event) {
    event.stopPropagation();
    const typing = ["INPUT", "TEXTAREA", "SELECT"].includes(event.target.tagName) && event.target.type !== "checkbox";
    if (event.key === "Escape") {
      this.solo = null;
      this.root.focus({ preventScroll: true });
      return this.fill();
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && event.target.tagName === "BUTTON") return;
    const model = this.model;
    const pairs = model.get("pairs");
    const slide = (by) => {
      if (this.slider.parentElement.hidden) return;
      this.slider.value = Number(this.slider.value) + by;
      this.slide();
    };
    const next = (by) => this.go(this.step(pairs, model.get("pair"), by));
    const acts = {
      ArrowUp: () => next(-1), k: () => next(-1), ArrowDown: () => next(1), j: () => next(1),
      ArrowLeft: () => slide(-1), ArrowRight: () => slide(1),
      g: () => this.set({ how: "grid" }), c: () => this.set({ how: "channel" }),
      m: () => this.set({ how: "mean" }), r: () => this.set({ how: "colors" }),
      l: () => {
        const layers = Object.keys(model.get("options").features);
        if (layers.length) this.set({ layer: this.step(layers, model.get("layer"), 1) });
      },
      p: () => {
        const prompts = this.panes["heat map"].about?.prompts || [];
        if (prompts.length) this.set({ prompt: (model.get("prompt") + 1) % prompts.length });
      },
      "[": () => this.set({ opacity: clamp(model.get("opacity") - 0.1, 0, 1) }),
      "]": () => this.set({ opacity: clamp(model.get("opacity") + 0.1, 0, 1) }),
      s: () => this.exchange(), o: () => this.nextOutlier(),
      "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5),
      0: () => this.look([0, 0, 1, 1]),
      Enter: () => this.hovered && this.toggleSolo(this.hovered.name),
      e: () => this.png(), y: () => this.open("code"), "?": () => this.open("keys"),
    };
    const number = Number(event.key);
    const act = number >= 1 && number <= IMAGES.length ? () => this.toggle(IMAGES[number - 1]) : acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  // --- below the pictures ---

  open(name) {
    this.tab = this.tab === name ? null : name;
    this.tabs.forEach((tab) => tab.classList.toggle("fk-on", tab.textContent === this.tab));
    this.below.replaceChildren();
    if (this.tab === "keys") {
      this.below.append(make("table", { className: "fk-keys" }, ...HELP.map(([key, what]) =>
        make("tr", {}, make("td", {}, make("kbd", { textContent: key })), make("td", { textContent: what })))));
    } else if (this.tab) {
      const kinds = { scores: "table", curves: "curves", recipe: "about", code: "code" };
      this.model.send({ kind: kinds[this.tab] });
    }
  }

  fill_table(table) {
    this.table = table;
    const columns = Object.keys(table.columns);
    if (!columns.length) return this.below.replaceChildren("this run scored nothing (yet).");
    const worst = table.pairs.map((_, i) =>
      Math.max(0, ...columns.map((name) => Math.abs(table.unusual[name][i] || 0))));
    const kept = new Set(this.model.get("pairs"));
    const { column, down, outliers } = this.sorted;
    let rows = table.pairs.map((_, i) => i);
    if (outliers) rows = rows.filter((i) => worst[i] > 3.5).sort((a, b) => worst[b] - worst[a]);
    if (column === "pair") rows.sort((a, b) => (down ? 1 : -1) * table.pairs[a].localeCompare(table.pairs[b]));
    else if (column) {
      const values = table.columns[column];
      const rank = (i) => (values[i] === null ? -Infinity : down ? values[i] : -values[i]);
      rows.sort((a, b) => rank(b) - rank(a));
    }
    const sort = (name) => {
      this.sorted = { ...this.sorted, column: name, down: this.sorted.column === name ? !down : true };
      this.fill_table(table);
    };
    const head = ["pair", ...columns].map((name) =>
      make("th", { textContent: name + (column === name ? (down ? " ▾" : " ▴") : ""), onclick: () => sort(name) }));
    const most = 300;
    const body = rows.slice(0, most).map((i) => {
      const pair = table.pairs[i];
      const cells = columns.map((name) => {
        const far = Math.abs(table.unusual[name][i] || 0) > 3.5;
        return make("td", {
          textContent: digits(table.columns[name][i]), className: far ? "fk-far" : "",
          title: far ? `${digits(table.unusual[name][i])} robust deviations from the median` : "",
        });
      });
      const row = make("tr", { className: kept.has(pair) ? "" : "fk-unkept", onclick: () => this.go(pair) },
        make("td", { textContent: pair }), ...cells);
      row.dataset.pair = pair;
      return row;
    });
    const count = worst.filter((value) => value > 3.5).length;
    this.below.replaceChildren(
      make("div", { className: "fk-bar" },
        make("button", {
          textContent: `outliers (${count})`, className: outliers ? "fk-outliers fk-on" : "fk-outliers",
          title: "pairs with a value more than 3.5 robust deviations from the median, the farthest first",
          onclick: () => {
            this.sorted = { column: null, down: true, outliers: !outliers };
            this.fill_table(table);
          },
        }),
        make("span", { textContent:
          `${rows.length} pairs${rows.length > most ? `, the first ${most} listed` : ""}; grey: no pictures kept` })),
      make("div", { className: "fk-scroll" },
        make("table", { className: "fk-table" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body))),
    );
    this.mark();
  }

  nextOutlier() {
    if (!this.table) {
      this.tab = null;
      this.sorted.outliers = true;
      return this.open("scores");
    }
    const { pairs, columns, unusual } = this.table;
    const kept = new Set(this.model.get("pairs"));
    const far = pairs.filter((pair, i) =>
      kept.has(pair) && Object.keys(columns).some((name) => Math.abs(unusual[name][i] || 0) > 3.5));
    if (far.length) this.go(this.step(far, this.model.get("pair"), 1));
    else this.message.textContent = "none of the pairs with pictures is an outlier.";
  }

  fill_curves({ terms, colors }) {
    if (!Object.keys(terms).length) return this.below.replaceChildren("nothing was trained in this run.");
    const SVG = "http://www.w3.org/2000/svg";
    const [width, height, left, base] = [300, 170, 46, 18];
    const draw = (tag, attributes, text) => {
      const node = document.createElementNS(SVG, tag);
      for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      if (text !== undefined) node.textContent = text;
      return node;
    };
    this.below.replaceChildren(make("div", { className: "fk-curves" }, ...Object.entries(terms).map(([term, lines]) => {
      const all = Object.values(lines);
      const steps = all.flatMap((line) => line.steps);
      const values = all.flatMap((line) => [...line.low, ...line.high]).sort((a, b) => a - b);
      // The first steps of a training tower over all the rest: leave out the highest hundredth.
      const low = values[0], high = values[Math.floor(0.99 * (values.length - 1))];
      const last = Math.max(...steps, 1);
      const x = (step) => left + (step / last) * (width - left - 6);
      const y = (value) => height - base - clamp((value - low) / (high - low || 1), 0, 1) * (height - base - 20);
      const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "fk-curve" });
      svg.append(draw("text", { x: left, y: 12, "font-weight": "bold" }, term));
      svg.append(draw("path", { d: `M${left} 18V${height - base}H${width - 6}`, fill: "none", stroke: "#999" }));
      for (const value of [low, high]) {
        svg.append(draw("text", { x: left - 4, y: y(value) + 3, "text-anchor": "end" }, digits(value)));
      }
      svg.append(draw("text", { x: width - 6, y: height - 5, "text-anchor": "end" }, `step ${last}`));
      Object.entries(lines).forEach(([name, line], i) => {
        const color = colors[i % colors.length];
        const path = (ys) => line.steps.map((step, k) => `${x(step).toFixed(1)} ${y(ys[k]).toFixed(1)}`);
        const band = [...path(line.high), ...path(line.low).reverse()];
        svg.append(draw("path", { d: `M${band.join("L")}Z`, fill: color, opacity: 0.2 }));
        svg.append(draw("path", { d: `M${path(line.mean).join("L")}`, fill: "none", stroke: color, "stroke-width": 1.5 }));
        svg.append(draw("text", { x: width - 8, y: 30 + 12 * i, fill: color, "text-anchor": "end" }, name));
      });
      const said = draw("text", { x: left + 4, y: height - 5 });
      svg.append(said);
      svg.addEventListener("pointermove", (event) => {
        const box = svg.getBoundingClientRect();
        const step = (((event.clientX - box.left) / box.width) * width - left) / (width - left - 6) * last;
        said.textContent = all.map((line) => {
          let k = line.steps.findIndex((known) => known >= step);
          if (k < 0) k = line.steps.length - 1;
          return `${line.steps[k]}: ${digits(line.mean[k])}`;
        }).join("  ");
      });
      return svg;
    })));
  }

  fill_about({ runs }) {
    const tree = (value) => {
      if (value === null || typeof value !== "object") return make("span", { textContent: String(value) });
      const entries = Object.entries(value);
      if (!entries.length) return make("span", { textContent: "none" });
      return make("div", { className: "fk-tree" }, ...entries.map(([name, entry]) => {
        const simple = entry === null || typeof entry !== "object";
        if (simple) return make("div", {}, make("i", { textContent: `${name}: ` }), tree(entry));
        if (Object.values(entry).every((part) => part === null || typeof part !== "object") && Array.isArray(entry)) {
          return make("div", {}, make("i", { textContent: `${name}: ` }), entry.join(", ") || "none");
        }
        return make("details", {}, make("summary", { textContent: name }), tree(entry));
      }));
    };
    this.below.replaceChildren(...Object.entries(runs).map(([label, facts]) =>
      make("details", { open: true }, make("summary", {}, make("b", { textContent: label })), tree(facts))));
  }

  fill_code({ text }) {
    const area = make("textarea", { className: "fk-code", readOnly: true, value: text, rows: Math.min(24, text.split("\n").length + 1) });
    const copy = make("button", { textContent: "copy", onclick: async () => {
      area.select();
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        document.execCommand("copy"); // pages that are not served securely have no clipboard
      }
      copy.textContent = "copied";
    } });
    this.below.replaceChildren(copy, area);
  }

  // --- keeping the view ---

  sheet() {
    const shown = IMAGES.map((name) => this.panes[name]).filter((pane) => !pane.element.hidden);
    const across = Math.min(4, shown.length), wide = this.solo ? 1600 : 640;
    const high = Math.round(wide * this.aspect), head = 44, gap = 8;
    const canvas = document.createElement("canvas");
    canvas.width = across * (wide + gap) - gap;
    canvas.height = Math.ceil(shown.length / across) * (high + head + gap) - gap;
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    shown.forEach((pane, i) => {
      context.save();
      context.translate((i % across) * (wide + gap), Math.floor(i / across) * (high + head + gap));
      context.fillStyle = "#222";
      context.font = "bold 15px sans-serif";
      context.fillText(pane.about?.caption || pane.name, 2, 17, wide - 4);
      context.font = "13px sans-serif";
      context.fillText(pane.text.textContent, 2, 36, wide - 4);
      context.translate(0, head);
      context.beginPath();
      context.rect(0, 0, wide, high);
      context.clip();
      pane.render(context, wide, high);
      context.restore();
    });
    return canvas;
  }

  png() {
    this.sheet().toBlob((blob) => {
      const url = URL.createObjectURL(blob);
      const link = make("a", { href: url, download: `${this.model.get("pair")}.png` });
      this.root.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    }, "image/png");
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.remove();
  },
};
