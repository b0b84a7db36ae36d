// @ts-check
// In a live notebook the programs are one module, and the kernel sends what a page would load.

/** @param {{model: any, el: HTMLElement}} widget */
function render({ model, el }) {
  compatkitExported.bringBy(
    (file) =>
      new Promise((resolve) => {
        /** @param {{file: string, text: string}} message */
        const heard = (message) => {
          if (message.file !== file) return;
          model.off("msg:custom", heard);
          resolve(message.text);
        };
        model.on("msg:custom", heard);
        model.send(file);
      }),
  );
  const root = document.createElement("div");
  root.className = `compatkit-program compatkit-${model.get("name")}`;
  Object.assign(root.dataset, model.get("options"));
  /** @type {any} */
  let own = null; // what was trained here
  root.addEventListener("compatkit-trained", (event) => {
    own = /** @type {CustomEvent} */ (event).detail;
    model.set("trained", own);
    model.save_changes();
  });
  const give = () => {
    const detail = model.get("trained");
    if (detail?.weights && detail !== own) root.dispatchEvent(new CustomEvent("compatkit-given", { detail }));
  };
  root.addEventListener("compatkit-built", give);
  model.on("change:trained", give);
  el.append(root);
  compatkitExported.start(`compatkit-${model.get("name")}`, root);
}

export default { render };
