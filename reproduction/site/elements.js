// @ts-check
// What the programs are made of: elements and drawings, controls, meters, pictures of a sheet, and what moves.

const compatkitElements = (() => {
  "use strict";

  /**
   * @template {Element} E
   * @param {E} element @param {Record<string, string>} attributes @param {(Node | string)[]} children
   */
  function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /**
   * A new element.
   * @template {keyof HTMLElementTagNameMap} Tag
   * @param {Tag} tag @param {Record<string, string>} [attributes] @param {(Node | string)[]} [children]
   */
  const make = (tag, attributes = {}, children = []) => filled(document.createElement(tag), attributes, children);

  /**
   * A new element of a drawing.
   * @param {string} tag @param {Record<string, string>} [attributes] @param {(Node | string)[]} [children]
   */
  const svg = (tag, attributes = {}, children = []) =>
    filled(
      /** @type {SVGElement} */ (document.createElementNS("http://www.w3.org/2000/svg", tag)),
      attributes,
      children,
    );

  /** @param {string} text @param {string} kind @param {() => void} pressed */
  function button(text, kind, pressed) {
    const made = make("button", { type: "button", class: kind }, [text]);
    made.addEventListener("click", pressed);
    return made;
  }

  /** What can be picked, as a pill. @param {HTMLInputElement} box @param {string} text */
  const option = (box, text) => make("label", { class: "option" }, [box, make("span", {}, [text])]);

  /**
   * One of several.
   * @param {string} name of the fieldset, as its class @param {string} legend
   * @param {readonly (readonly [value: string, text: string])[]} options
   * @param {string} chosen @param {(value: string) => void} pick
   */
  function radios(name, legend, options, chosen, pick) {
    const group = `compatkit-${Math.random()}`; // live, each widget loads this anew
    const pills = options.map(([value, text]) => {
      const box = make("input", { type: "radio", name: group, value });
      box.checked = value === chosen;
      box.addEventListener("change", () => pick(value));
      return option(box, text);
    });
    return make("fieldset", { class: name }, [make("legend", {}, [legend]), ...pills]);
  }

  /** @param {string} name @param {number} min @param {number} max @param {(value: number) => void} moved */
  function slider(name, min, max, moved) {
    const made = make("input", { type: "range", min: `${min}`, max: `${max}`, "aria-label": name });
    made.addEventListener("input", () => moved(Number(made.value)));
    return made;
  }

  /** A slider under its name and value. @param {string} name @param {HTMLElement} value @param {HTMLElement} slider */
  const slid = (name, value, slider) =>
    make("label", { class: "slid" }, [make("span", {}, [`${name} `, value]), slider]);

  /** Shares as bars under a heading. @param {string} heading @param {string[]} names */
  function meters(heading, names) {
    const rows = names.map((name) => make("div", { class: "score" }, [make("span", {}, [name]), make("i"), make("b")]));
    const element = make("div", { class: "scores" }, [make("span", {}, [heading]), ...rows]);
    /** @param {(number | null)[]} shares */
    const show = (shares) =>
      rows.forEach(({ children: [, bar, value] }, i) => {
        const share = shares[i];
        /** @type {HTMLElement} */ (bar).style.setProperty("--share", `${share ?? 0}`);
        value.textContent = share === null ? "–" : percent(share);
      });
    return { element, show };
  }

  /**
   * A picture of a sheet.
   * @param {{sprite: string, columns: number}} sheet @param {number} place
   * @param {string} [name] of what is found, which may be a hit @param {boolean} [hit]
   */
  function tile({ sprite, columns }, place, name = "", hit = false) {
    const named = { role: "img", "aria-label": `${name}${hit ? ", a hit" : ""}` };
    const made = make("span", { class: hit ? "tile hit" : "tile", ...(name ? named : {}) });
    const [row, column] = [Math.floor(place / columns), place % columns];
    made.style.backgroundImage = `url(${sprite})`;
    made.style.setProperty("--columns", `${columns}`);
    made.style.backgroundPosition = `calc(var(--side) * ${-column}) calc(var(--side) * ${-row})`;
    return made;
  }

  /** What moves for a time, and is there at once for who wants no motion. @param {number} milliseconds */
  function motion(milliseconds) {
    let frame = 0;
    /** @param {(done: number) => void} draw what is done of the motion, in 0..1 */
    return (draw) => {
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      const start = performance.now();
      cancelAnimationFrame(frame);
      /** @param {number} now */
      const move = (now) => {
        const done = still ? 1 : Math.min(1, Math.max(0, (now - start) / milliseconds));
        draw(done);
        if (done < 1) frame = requestAnimationFrame(move);
      };
      move(start);
    };
  }

  /** Places for labels that want to stand at ys, at least a gap from each other, between low and high.
   * @param {number[]} ys @param {number} gap @param {number} low @param {number} high */
  function apart(ys, gap, low, high) {
    const order = ys.map((_, i) => i).sort((i, j) => ys[i] - ys[j]);
    const placed = [...ys];
    order.forEach((i, k) => {
      if (k) placed[i] = Math.max(placed[i], placed[order[k - 1]] + gap);
    });
    let limit = high;
    for (const i of order.reverse()) {
      placed[i] = Math.max(Math.min(placed[i], limit), low);
      limit = placed[i] - gap;
    }
    return placed;
  }

  /** The place of the largest. @param {number[]} values */
  const best = (values) => values.indexOf(Math.max(...values));

  /** @param {number} share in 0..1 @param {number} digits after the point */
  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u00a0%`;

  return { apart, best, button, make, meters, motion, option, percent, radios, slid, slider, svg, tile };
})();
