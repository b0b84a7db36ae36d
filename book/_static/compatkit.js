// Two small corrections to the widgets' own script; without them pickers work, but less well.

// It hands labels to a MathJax 2 that is not there, and stops at the error. Our labels hold no formulas.
document.addEventListener("DOMContentLoaded", () => {
  if (window.MathJax) MathJax.Hub ??= { Queue() {} };
});

// It gives a slider no name, reads out the position in place of the option, and lets one type into the readout.
function describeSliders() {
  for (const slider of document.querySelectorAll(".compatkit-picker .widget-slider")) {
    const [handle, label, readout] = [".noUi-handle", ".widget-label", ".widget-readout"].map((part) =>
      slider.querySelector(part),
    );
    if (!handle || !label || !readout) continue;
    if (readout.isContentEditable) readout.contentEditable = "false";
    const wanted = { "aria-label": label.textContent, "aria-valuetext": readout.textContent };
    for (const [name, text] of Object.entries(wanted)) {
      if (handle.getAttribute(name) !== text) handle.setAttribute(name, text);
    }
  }
}

new MutationObserver(describeSliders).observe(document, {
  subtree: true,
  childList: true,
  characterData: true,
  attributeFilter: ["aria-valuetext"],
});
