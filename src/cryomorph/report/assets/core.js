// What all parts share: the data, elements, numbers, colours.
"use strict";
window.cryo = { sections: {} };
(function (cryo) {
  const kinds = { f4: Float32Array, i2: Int16Array, u1: Uint8Array };

  /** Decode an array as `encoding.py` packs it; 16-bit numbers become multiples of their grid. */
  cryo.unpack = function (packed) {
    const text = atob(packed.data);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const values = new kinds[packed.type](bytes.buffer);
    return packed.scale ? Float32Array.from(values, (v) => v * packed.scale) : values;
  };

  cryo.find = (id) => document.getElementById(id);
  cryo.hide = function (id) {
    cryo.find(id).hidden = true;
  };

  /** Make an element; children are elements or texts, never HTML. */
  cryo.make = function (name, attributes, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  cryo.svg = function (name, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  function small(value) {
    const [factor, power] = value.toExponential(1).replace(".0", "").split("e-");
    const ten = "10⁻" + [...power].map((digit) => RAISED[digit]).join("");
    return (factor === "1" ? ten : `${factor}·${ten}`).replace("-", "−");
  }

  /** Format a number for reading: three significant digits, thousands apart. */
  cryo.format = function (value, digits) {
    if (value === null || !isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    if (size !== 0 && size < 0.001) return small(value);
    return String(Number(value.toPrecision(digits || 3))).replace("-", "−");
  };

  cryo.colour = (name) =>
    getComputedStyle(document.documentElement)
      .getPropertyValue("--" + name)
      .trim();

  const DATA = ["data-1", "data-2", "data-3", "data-4", "data-6", "data-5"];
  /** Colour of a series or state by number; they repeat, so that names or numbers stand beside them. */
  cryo.series = (index) => cryo.colour(DATA[index % DATA.length]);

  cryo.rgb = function (colour) {
    const hex = colour.replace("#", "");
    return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  };

  // Cividis, which looks alike to all eyes, at nine places.
  const CIVIDIS = [
    "#00224e",
    "#123570",
    "#3b496c",
    "#575d6d",
    "#707173",
    "#8a8779",
    "#a69d75",
    "#c4b56c",
    "#fee838",
  ].map(cryo.rgb);
  // From what stands still, grey, to what moves, the darker or, on black, the lighter the more.
  const MOVING = {
    light: ["#bfc5cd", "#e3b48c", "#dd7a2e", "#b54708", "#7a2a00"].map(cryo.rgb),
    dark: ["#6d7885", "#a98468", "#e0854a", "#f9a86f", "#ffe0c4"].map(cryo.rgb),
  };

  cryo.mix = (a, b, at) => a.map((value, k) => value + at * (b[k] - value));

  function between(stops, at) {
    const place = Math.min(Math.max(at, 0), 1) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return cryo.mix(stops[low], stops[low + 1], place - low);
  }

  cryo.dark = () => document.documentElement.dataset.theme === "dark";
  /** Colours of scales from 0 to 1, as three numbers up to 255. */
  cryo.sequential = (at) => between(CIVIDIS, cryo.dark() ? 0.2 + 0.8 * at : at);
  cryo.moving = (at) => between(cryo.dark() ? MOVING.dark : MOVING.light, at);

  const redraws = [];
  /** Draw now, and again when the colours change or, given an element, its width does. */
  cryo.keepDrawn = function (draw, element) {
    redraws.push(() => {
      if (!element || element.clientWidth > 0) draw();
    });
    draw();
    if (!element) return;
    const size = () => `${element.clientWidth} ${Math.round(element.clientHeight / 8)}`;
    let drawn = size();
    new ResizeObserver(() => {
      if (size() === drawn || !element.clientWidth) return;
      draw();
      drawn = size();
    }).observe(element);
  };

  cryo.setTheme = function (theme) {
    document.documentElement.dataset.theme = theme;
    const button = cryo.find("theme");
    button.setAttribute("aria-pressed", String(theme === "dark"));
    redraws.forEach((draw) => draw());
  };

  cryo.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
})(window.cryo);
