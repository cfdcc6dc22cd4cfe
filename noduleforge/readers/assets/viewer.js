// Pictures on canvases: slices of volumes in three planes, or one radiograph; window, zoom, scrolling.

export const PLANES = ["axial", "coronal", "sagittal"];

const WINDOWS_HU = { lung: [-600, 1500], tissue: [40, 400] }; // level and width

/** Intensities that are black and white, shared by all views of a case. */
export class GreyWindow {
  constructor(picture) {
    this.range = picture.window;
    this.ct = picture.modality === "ct";
    this.reset();
  }

  reset() {
    if (this.ct) this.choose("lung");
    else [this.level, this.width] = [(this.range[0] + this.range[1]) / 2, this.range[1] - this.range[0]];
  }

  choose(name) {
    [this.level, this.width] = WINDOWS_HU[name];
  }

  /** Move by shares of the whole range: darker for a higher level, less contrast for more width. */
  move(level, width) {
    const [low, high] = this.range, all = high - low;
    this.level = Math.min(Math.max(this.level + level * all, low), high);
    this.width = Math.min(Math.max(this.width + width * all, all / 100), 2 * all);
  }

  /** The grey, 0 to 255, of each stored value. */
  table() {
    const [low, high] = this.range, count = Math.round(high - low) + 1;
    const greys = new Uint8ClampedArray(count), black = this.level - this.width / 2;
    for (let k = 0; k < count; k++) greys[k] = (255 * (low + k - black)) / this.width;
    return greys;
  }
}

/** A picture of the study: whole numbers above the window's lower end, in the order z, y, x. */
export class Picture {
  constructor(values, { shape, spacing_mm: spacing }) {
    [this.values, this.spacing] = [values, spacing];
    this.shape = shape.length === 3 ? shape : [1, ...shape];
  }

  /** Rows, columns, number of slices, and the index of a voxel, in a plane. */
  plane(name) {
    const [nz, ny, nx] = this.shape, area = ny * nx;
    if (name === "coronal") return [nz, nx, ny, (s, r, c) => (nz - 1 - r) * area + s * nx + c];
    if (name === "sagittal") return [nz, ny, nx, (s, r, c) => (nz - 1 - r) * area + c * nx + s];
    return [ny, nx, nz, (s, r, c) => s * area + r * nx + c];
  }
}

/** One plane of one picture on a canvas. */
export class View {
  constructor(picture, plane, grey, { label, onchange, onactive }) {
    Object.assign(this, { picture, grey, label, onchange });
    this.figure = document.createElement("figure");
    this.canvas = document.createElement("canvas");
    this.caption = document.createElement("figcaption");
    this.figure.append(this.canvas, this.caption);
    this.small = document.createElement("canvas");
    this.choosePlane(plane);
    this.reset();
    this.listen(onactive);
  }

  choosePlane(plane) {
    this.plane = plane;
    [this.rows, this.columns, this.slices, this.index] = this.picture.plane(plane);
    this.slice = Math.floor(this.slices / 2);
    [this.small.width, this.small.height] = [this.columns, this.rows];
  }

  reset() {
    this.slice = Math.floor(this.slices / 2);
    this.zoom = 1;
    this.center = [this.columns / 2, this.rows / 2];
  }

  scroll(steps) {
    this.slice = Math.min(Math.max(this.slice + steps, 0), this.slices - 1);
  }

  enlarge(factor) {
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), 16);
    if (this.zoom === 1) this.center = [this.columns / 2, this.rows / 2];
  }

  scale() {
    return this.zoom * Math.min(this.canvas.width / this.columns, this.canvas.height / this.rows);
  }

  draw() {
    const ratio = window.devicePixelRatio, { clientWidth, clientHeight } = this.canvas;
    const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
    if (!width || !height) return;
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const pixels = new ImageData(this.columns, this.rows), greys = this.grey.table(), { values } = this.picture;
    for (let r = 0, k = 0; r < this.rows; r++) {
      for (let c = 0; c < this.columns; c++, k += 4) {
        const shade = greys[values[this.index(this.slice, r, c)]];
        pixels.data[k] = pixels.data[k + 1] = pixels.data[k + 2] = shade;
        pixels.data[k + 3] = 255;
      }
    }
    this.small.getContext("2d").putImageData(pixels, 0, 0);
    const context = this.canvas.getContext("2d"), scale = this.scale();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.setTransform(scale, 0, 0, scale, width / 2 - scale * this.center[0], height / 2 - scale * this.center[1]);
    context.drawImage(this.small, 0, 0);
    this.drawScale(context);
    this.write();
  }

  /** A line of 10 mm at the lower left corner. */
  drawScale(context) {
    const ratio = window.devicePixelRatio, length = (10 / this.picture.spacing) * this.scale();
    const [left, bottom] = [12 * ratio, this.canvas.height - 12 * ratio];
    context.setTransform(1, 0, 0, 1, 0, 0);
    for (const [shade, width] of [["#000", 5], ["#eee", 2]]) {
      context.fillStyle = shade;
      const edge = ((width - 2) / 2) * ratio;
      context.fillRect(left - edge, bottom - edge, length + 2 * edge, width * ratio);
    }
    context.font = `${13 * ratio}px sans-serif`;
    context.strokeText("10 mm", left, bottom - 6 * ratio);
    context.fillText("10 mm", left, bottom - 6 * ratio);
  }

  write() {
    const number = document.createElement("b"), parts = [];
    number.textContent = this.label;
    if (this.slices > 1) parts.push(`${this.plane} ${this.slice + 1}/${this.slices}`);
    this.caption.replaceChildren(...(this.label ? [number, " "] : []), ...parts);
  }

  listen(onactive) {
    const { canvas } = this;
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      onactive(this);
      from = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
      from = [event.clientX, event.clientY];
      if (event.shiftKey) {
        const step = window.devicePixelRatio / this.scale();
        this.center = [this.center[0] - dx * step, this.center[1] - dy * step];
      } else this.grey.move(dy / 500, dx / 500);
      this.onchange();
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (from = null));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      onactive(this);
      if (event.ctrlKey || this.slices === 1) this.enlarge(event.deltaY < 0 ? 1.15 : 1 / 1.15);
      else this.scroll(Math.sign(event.deltaY));
      this.onchange();
    }, { passive: false });
  }
}
