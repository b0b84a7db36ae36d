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
  root.addEventListener("compatkit-trained", (event) => {
    model.set("trained", /** @type {CustomEvent} */ (event).detail);
    model.save_changes();
  });
  el.append(root);
  compatkitExported.start(`compatkit-${model.get("name")}`, root);
}

export default { render };
