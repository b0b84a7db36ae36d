// @ts-check
// What `python -m reproduction export` writes, loaded when it is first asked for: as scripts, since a page opened from
// disk may load nothing else.

const compatkitExported = (() => {
  "use strict";

  const FORMAT = 1;
  const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"; // RFC 1924
  const OWN = /** @type {HTMLScriptElement | null} */ (document.currentScript)?.src; // live, no file has it

  /** @typedef {(root: HTMLElement) => [registry: string, name: string]} Needed the file that a program is made of */
  /** @typedef {(root: HTMLElement, content: any) => void} Build fills an element */
  /** @type {Map<string, [Build, Needed?]>} */
  const programs = new Map();

  /**
   * Names a program, and starts it wherever a page of the book has an element for it.
   * @param {string} name the class of the element
   * @param {Build} build
   * @param {Needed} [needed] loaded when the element is about to be seen
   */
  function define(name, build, needed) {
    programs.set(name, [build, needed]);
    for (const root of document.querySelectorAll(`.${name}`)) start(name, /** @type {HTMLElement} */ (root));
  }

  /** @param {string} name @param {HTMLElement} root */
  function start(name, root) {
    const [build, needed] = /** @type {[Build, Needed?]} */ (programs.get(name));
    if (!needed) return build(root, null);
    const failed = (/** @type {Error} */ { message }) => (root.textContent = message);
    whenNear(root, () => load(...needed(root)).then((content) => build(root, content), failed));
  }

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

  /** @type {((file: string) => Promise<string>) | null} */
  let bring = null;

  /** In a live notebook: how the text of a file is had. @param {(file: string) => Promise<string>} bringing */
  function bringBy(bringing) {
    bring = bringing;
  }

  /** @param {string} registry @param {string} name */
  async function loaded(registry, name) {
    const file = `${name.replaceAll("+", "-")}.js`;
    const address = OWN ? new URL(`exported/${file}`, OWN).href : file;
    const script = document.createElement("script");
    if (bring) script.textContent = await bring(file);
    else script.src = address;
    await new Promise((resolve) => {
      script.onload = script.onerror = resolve;
      document.head.append(script);
      if (bring) resolve(null);
    });
    script.remove();
    const content = /** @type {any} */ (globalThis)[registry]?.[name];
    if (!content) throw new Error(`${name} could not be loaded from ${address}.`); // half of it is no statement
    if (content.format !== FORMAT) throw new Error(`${address} is not of format ${FORMAT}.`);
    return content;
  }

  /** Bytes in base 85. @param {string} text @param {number} count */
  function bytes(text, count) {
    const digits = new Uint8Array(128);
    for (let i = 0; i < 85; i++) digits[ALPHABET.charCodeAt(i)] = i;
    const found = new Uint8Array(4 * Math.ceil(count / 4));
    for (let i = 0; i < found.length / 4; i++) {
      let word = 0; // the first byte is the highest
      for (let j = 0; j < 5; j++) word = word * 85 + digits[text.charCodeAt(5 * i + j)];
      found.set([word >>> 24, (word >>> 16) & 255, (word >>> 8) & 255, word & 255], 4 * i);
    }
    return found.subarray(0, count);
  }

  /** Calls back once, when an element is about to be seen. @param {Element} element @param {() => void} callback */
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
   * What a program keeps in the address of a page of the book; a live notebook has its address for itself.
   * @param {string} name
   */
  function state(name) {
    return {
      read: () => (OWN ? new URL(location.href).searchParams.get(name) : null),
      /** @param {string | null} value null: nothing to say */
      write(value) {
        if (!OWN) return;
        const url = new URL(location.href);
        if (value === null) url.searchParams.delete(name);
        else url.searchParams.set(name, value);
        if (url.href !== location.href) history.replaceState(history.state, "", url);
      },
    };
  }

  return { bringBy, bytes, define, load, start, state, whenNear };
})();
