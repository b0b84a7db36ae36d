// @ts-check
// <div class="compatkit-draw" data-method="independent" data-split="stage2">: draw a digit, and four networks say what it
// is.

(() => {
  "use strict";

  const { best, make, percent, radios, slider } = compatkitElements;

  /** What to expect of each method; all of them on offer are here. */
  /** @type {Record<string, string>} */
  const METHODS = {
    independent:
      "Trained apart. Nothing ties the features of one network to those of the other, so a recombined one is right about as " +
      "often as chance or less, and often wrong with confidence.",
    IIW:
      "Identical initial weights: both start from the same numbers and are then trained apart. Their parts fit in part; after " +
      "stage 3 nearly always, because both sets number the digits alike.",
    RP: "Rotation prediction: one head, shared by both, also learns by how much an image was turned.",
    DCC:
      "Discriminating common classes: one head, shared by both, tells the common classes apart from the features after " +
      "stage 2. There the parts mostly fit. Move the split away from it, and they do not.",
    "IIW+DCC":
      "The same initial weights, and one shared head for the common classes: the parts fit where they were trained to, " +
      "and at other layers as well.",
    "IIW+RP+DCC":
      "All three: the same initial weights, shared rotation prediction, and a shared head for the common classes.",
  };
  /** Where one network hands over to the other, as `compatkit.models.split` names it. */
  const SPLITS = ["stem", "stage1", "stage2", "stage3"]; // pooling has no weights: after it all is as before it
  const TRAINED_SPLIT = "stage2";

  const CLASSES = 10;
  const FIRST = 5; // the digit that stands there at first: recombined from independent networks, two say something else

  /** @param {string} split */
  const spoken = (split) => split.replace("stage", "stage ");

  /** @param {string} extractor @param {string} head */
  function panel(extractor, head) {
    const whole = extractor === head;
    const digit = make("span", { class: "digit" }, ["–"]);
    const share = make("span", { class: "share" });
    const note = make("span", { class: "note" });
    const bars = Array.from({ length: CLASSES }, (_, i) =>
      make("span", { class: "bar" }, [make("i"), make("b", {}, [`${i}`])]),
    );
    const label = `extractor ${extractor}, head ${head}`;
    const [first, second] = label.split(/(?<=,) /).map((words) => make("b", {}, [words]));
    const element = make("div", { class: whole ? "panel" : "panel recombined", role: "group", "aria-label": label }, [
      make("span", { class: "title" }, [first, " ", second]),
      make("span", { class: "tag" }, [whole ? "as trained" : "recombined"]),
      make("div", { class: "answer" }, [digit, share]),
      make("div", { class: "bars", "aria-hidden": "true" }, bars),
      note,
    ]);
    return { element, digit, share, bars, note };
  }

  /** @param {HTMLElement} root */
  function build(root) {
    let { method = "independent", split = TRAINED_SPLIT } = root.dataset;
    const { canvas, seen, clear, examples, image } = compatkitPad.pad(16, FIRST, (settled) => show(settled));
    const cut = slider("split after", 0, SPLITS.length - 1, (at) => {
      split = SPLITS[at];
      show(true);
    });
    cut.value = `${SPLITS.indexOf(split)}`;
    const place = make("span", { class: "place" });
    const blocks = [...SPLITS.map(spoken), "classes"].map((name) => make("span", {}, [name]));
    const expectation = make("p", { class: "expectation" });
    const measured = make("p", { class: "measured" });
    const words = make("p", { class: "words", "aria-live": "polite" });
    const pairs = ["aa", "ab", "ba", "bb"];
    const panels = pairs.map(([extractor, head]) => panel(extractor, head));
    const methods = Object.keys(METHODS).map((name) => /** @type {[string, string]} */ ([name, name]));

    root.replaceChildren(
      make("div", { class: "input" }, [make("b", {}, ["Draw a digit, or press one"]), canvas]),
      make("div", { class: "answers" }, [...panels.map(({ element }) => element)]),
      make("div", { class: "tools" }, [
        make("div", { class: "below" }, [clear, make("span", { class: "sees" }, ["they see ", seen])]),
        examples,
      ]),
      make("div", { class: "choices" }, [
        radios("method", "Method", methods, method, (picked) => {
          method = picked;
          show(false);
          fetchNetworks();
        }),
        make("label", { class: "split" }, [
          make("b", {}, ["Split after ", place]),
          make("span", { class: "network", "aria-hidden": "true" }, blocks),
          cut,
        ]),
        expectation,
      ]),
      words,
      measured,
    );

    /** @type {Networks | null} */
    let networks = null;

    function fetchNetworks() {
      const wanted = method;
      networks = null;
      root.setAttribute("aria-busy", "true");
      compatkitNet.load(wanted).then(
        (loaded) => {
          if (wanted !== method) return;
          networks = loaded;
          root.removeAttribute("aria-busy");
          show(true);
        },
        (error) => {
          if (wanted !== method) return;
          root.removeAttribute("aria-busy");
          forget(error.message);
        },
      );
    }

    /** @param {string} message in place of the answers */
    function forget(message) {
      for (const { digit, share, bars } of panels) {
        digit.textContent = "–";
        share.textContent = "";
        for (const bar of bars) bar.style.setProperty("--share", "0");
      }
      words.textContent = message;
    }

    /** @param {boolean} settled nothing is being drawn: say it in words as well */
    function show(settled) {
      place.textContent = spoken(split) + (split === TRAINED_SPLIT ? ", as in training" : "");
      blocks.forEach((block, at) => block.classList.toggle("head", at > SPLITS.indexOf(split)));
      cut.setAttribute("aria-valuetext", spoken(split));
      expectation.textContent = METHODS[method];
      if (!networks) return;
      const shown = networks;
      const used = pairs.map(
        ([extractor, head]) =>
          /** @type {Combination} */ (
            shown.file.combinations.find(
              (c) => c.extractor === extractor && c.head === head && (c.split === null || isAfter(c.split, split)),
            )
          ),
      );
      showMeasured(shown.file, used);
      const drawn = image();
      if (!drawn) return forget("Draw a digit, or press one of the ten.");
      const found = used.map((combination, i) => {
        const { classes } = shown.file.networks[combination.head];
        const shares = compatkitNet.probabilities(compatkitNet.logits(shown, combination, drawn), combination.outputs);
        const said = best(shares);
        const { digit, share, bars } = panels[i];
        digit.textContent = classes[said];
        share.textContent = percent(shares[said]);
        bars.forEach((bar, output) => {
          bar.style.setProperty("--share", `${shares[output]}`);
          bar.classList.toggle("best", output === said);
          bar.classList.toggle("unknown", !combination.outputs.includes(output));
        });
        return { says: classes[said], share: shares[said] };
      });
      if (settled) words.textContent = inWords(found, unsharedClasses(shown.file, used));
    }

    /** @param {{ says: string, share: number }[]} found @param {string[]} unshared */
    function inWords(found, unshared) {
      const list = found.map(({ says, share }, i) => `${pairs[i][0]}-${pairs[i][1]} says ${says} (${percent(share)})`);
      const answers = found.map(({ says }) => says);
      return `${list.join(", ")}. ${verdict(answers, unshared)}`;
    }

    /** @param {string[]} answers @param {string[]} unshared */
    function verdict([aa, ab, ba, bb], unshared) {
      if (unshared.includes(aa) || unshared.includes(bb))
        return `Recombined networks cannot say ${unshared.join(", ")}: it stands for the class that two tasks do not share.`;
      if (aa !== bb) return "The two networks disagree even before the swap.";
      const others = [ab, ba].filter((answer) => answer !== aa).length;
      return [
        "All four agree.",
        "Recombined, one of them says something else.",
        "Recombined, both say something else.",
      ][others];
    }

    /** @param {NetworkFile} file @param {Combination[]} used */
    function showMeasured(file, used) {
      used.forEach(({ accuracy, images }, i) => {
        panels[i].note.textContent = `right on ${percent(accuracy, 1)} of ${images} test images`;
      });
      const { a, b } = file.networks;
      const chance = percent(1 / used[1].outputs.length, 1);
      const recorded = [used[1], used[2]].map((c) => (c.recorded === null ? "nothing" : percent(c.recorded, 1)));
      measured.textContent =
        `Network a learnt ${a.set}, network b ${b.set}; test images are of the extractor's set. ` +
        `${unsharedClasses(file, used).join(", ")} is not shared: recombined networks choose among the other classes, where ` +
        `chance is ${chance}. The run of Fig. 2 with seed ${file.seed}, trained again on another kind of processor, ` +
        `which rounds differently; in the book it has ${recorded[0]} (a-b) and ${recorded[1]} (b-a). The ten examples ` +
        `are strokes that both networks of every method read right before the swap.`;
    }

    /** @param {NetworkFile} file @param {Combination[]} used */
    function unsharedClasses(file, used) {
      return file.networks[used[1].head].classes.filter((_, output) => !used[1].outputs.includes(output));
    }

    compatkitExported.whenNear(root, fetchNetworks); // 400 KB
  }

  /** @param {string} block @param {string} split */
  const isAfter = (block, split) => block === split || block.startsWith(`${split}_block`);

  compatkitExported.define("compatkit-draw", build);
})();
