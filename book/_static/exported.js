// @ts-check
// What `python -m reproduction export` writes, loaded when it is first asked for: as scripts, since a page opened from
// disk may load nothing else.

const compatkitExported = (() => {
  "use strict";

  const FORMAT = 1;
  const FOLDER = new URL("exported/", /** @type {HTMLScriptElement} */ (document.currentScript).src);

  /** @type {Map<string, Promise<any>>} */
  const loading = new Map();

  /**
   * The content of a file, loaded once; what could not be loaded is tried again.
   * @param {string} registry where the file puts it
   * @param {string} name under which it stands there
   * @returns {Promise<any>}
   */
  function load(registry, name) {
    const known = loading.get(name) ?? loaded(registry, name);
    loading.set(name, known);
    known.catch(() => loading.delete(name));
    return known;
  }

  /**
   * @param {string} registry
   * @param {string} name
   */
  function loaded(registry, name) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = new URL(`${name.replaceAll("+", "-")}.js`, FOLDER).href;
      const fail = () => reject(new Error(`${name} could not be loaded from ${script.src}.`));
      script.onerror = fail;
      script.onload = () => {
        script.remove();
        const content = /** @type {any} */ (globalThis)[registry]?.[name];
        if (!content) return fail(); // half of it is no statement
        if (content.format !== FORMAT) return reject(new Error(`${script.src} is not of format ${FORMAT}.`));
        resolve(content);
      };
      document.head.append(script);
    });
  }

  /**
   * Calls back once, when an element is about to be seen.
   * @param {Element} element
   * @param {() => void} callback
   */
  function whenNear(element, callback) {
    const watch = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        watch.disconnect();
        callback();
      },
      { rootMargin: "200px" },
    );
    watch.observe(element);
  }

  /**
   * A new element.
   * @template {keyof HTMLElementTagNameMap} Tag
   * @param {Tag} tag
   * @param {Record<string, string>} attributes
   * @param {(Node | string)[]} children
   */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /**
   * @param {number} share in 0..1
   * @param {number} digits after the point
   */
  const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u00a0%`;

  return { load, whenNear, make, percent };
})();
