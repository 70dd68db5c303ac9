// SPDX-License-Identifier: Apache-2.0 OR MIT
// Opens cases and draws their timelines. Everything comes from the JSON in this file; texts become text nodes only.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const parse = (id) => JSON.parse(document.getElementById(id).textContent);
  const shared = parse("shared");

  // ---------- small helpers

  const el = (name, props = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(props)) {
      if (key === "class") node.className = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const svg = (name, props = {}, ...children) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(props)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  const duration = (ns) => {
    const [value, unit] = ns < 1e3 ? [ns, "ns"] : ns < 1e6 ? [ns / 1e3, "µs"] : ns < 1e9 ? [ns / 1e6, "ms"] : [ns / 1e9, "s"];
    const digits = unit === "ns" || value >= 100 ? 0 : value >= 10 ? 1 : 2;
    return `${value.toFixed(digits)} ${unit}`;
  };
  const exact = (ns) => `${ns.toLocaleString("en")} ns`;
  // A time as people count it: from the first moment of the story.
  const relative = (ns, story) => {
    const since = ns - story.zero;
    return since === 0 ? "0" : `${since < 0 ? "−" : "+"}${duration(Math.abs(since))}`;
  };
  const exactly = (ns, story) => `${ns < story.zero ? "−" : ""}${exact(Math.abs(ns - story.zero))}`;
  const first = (text) => text.split(/(?<=[.;:])\s/)[0].replace(/[;:]$/, ".");

  const BARS = {
    step: "step of the scenario", look: "step that only looks", refused: "refused or failed", job: "step in a job",
    blocked: "asleep in the kernel", pin: "pages pinned", write: "write in flight", read: "read in flight",
    other: "other requests", hold: "held by the disk", cpu: "content written by a CPU", dma: "content written by the device",
    zero: "zeros", mixed: "parts of several contents", unknown: "not known",
  };
  const TICKS = {
    dma: "the device writes (DMA)", cpu: "a CPU writes", fetch: "the disk fetches the bytes", hit: "audit: changed in flight",
    good: "read, as it should be", bad: "read, and wrong", left: "page leaves its file", power: "loss of power",
  };
  const ROWS = {
    steps: "", job: "", memory: "memory", pin: "pin", flight: "to disk", disk: "on disk", others: "",
  };
  const HEIGHTS = { steps: 24, job: 24, memory: 30, pin: 14, flight: 24, disk: 24, others: 14 };

  // ---------- the drawing

  // Place of an instant on the piecewise axis, in units of its width.
  const placer = (knots) => (ns) => {
    let low = 0;
    let high = knots.length - 1;
    if (high < 0 || ns <= knots[0][0]) return 0;
    if (ns >= knots[high][0]) return knots[high][1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (knots[middle][0] <= ns) low = middle;
      else high = middle;
    }
    const [t0, x0] = knots[low];
    const [t1, x1] = knots[high];
    return x0 + ((x1 - x0) * (ns - t0)) / (t1 - t0);
  };

  const cut = (text, width, size = 6.2) => {
    const fits = Math.floor((width - 6) / size);
    if (fits >= text.length) return text;
    return fits >= 4 ? `${text.slice(0, fits - 1)}…` : "";
  };

  const PATTERNS = [
    ["hatch", 6, "M0,6 L6,0 M-1,1 L1,-1 M5,7 L7,5"],
    ["dots", 5, "M1.5,2.5 h1.6"],
    ["cross", 7, "M0,0 L7,7 M7,0 L0,7"],
  ];
  let serial = 0;

  const tickShape = (kind, x, y) => {
    const path = (d, extra = {}) => svg("path", { d, ...extra });
    switch (kind) {
      case "dma": return path(`M${x - 5},${y - 7} h10 l-5,8 z`);
      case "cpu": return path(`M${x - 4.5},${y - 6} h9 l-4.5,7 z`);
      case "fetch": return path(`M${x},${y - 5} l5,5 l-5,5 l-5,-5 z`);
      case "hit": return path(`M${x},${y - 8} l2,5.4 5.6,-.4 -4.2,3.6 1.8,5.4 -5.2,-3 -5.2,3 1.8,-5.4 -4.2,-3.6 5.6,.4 z`);
      case "good": return path(`M${x - 5},${y} l4,4 l7,-8`);
      case "bad": return path(`M${x - 4.5},${y - 4.5} l9,9 m0,-9 l-9,9`);
      case "left": return path(`M${x},${y - 6} v12 m-4,-4 l4,4 l4,-4`);
      default: return path(`M${x - 1},${y - 8} l-4,9 h4 l-2,7 l7,-10 h-4 l3,-6 z`);
    }
  };

  const describe = (item, lane, kinds, story) => {
    const name = kinds[item.k];
    const what = item.d || item.t || name;
    const lasting = item.b === undefined ? "" : item.b - item.a === 0 ? "" : `, lasting ${exact(item.b - item.a)}`;
    return { title: what, when: item.l ? "after the last event" : `at ${exactly(item.a, story)}${lasting}`, lane: lane.name, kind: name };
  };

  // Draws into `figure`; `fit` scales the drawing to the width instead of letting it scroll.
  const draw = (figure, story, fit) => {
    const holder = figure.querySelector(".plot");
    holder.replaceChildren();
    const wide = figure.clientWidth >= 720;
    const left = fit || wide ? 208 : 54;
    const heading = wide || fit ? 0 : 20;
    const available = Math.max(figure.clientWidth - left - 2, 200);
    const knots = story.axis.knots;
    const units = Math.max(knots.length ? knots[knots.length - 1][1] : 0, 60);
    // Room at the right for what came after the last event.
    const after = story.lanes.some((lane) => lane.rows.some((row) => (row.ticks ?? []).some((tick) => tick.l)));
    const margin = after ? 128 : 34;
    // A little narrower than the names would have it is better than scrolling.
    const fits = (available - margin) / units;
    const scale = fit ? 1 : fits >= 0.88 ? fits : 1;
    const place = placer(knots);
    const X = (ns) => 12 + place(ns) * scale;
    const width = Math.ceil(units * scale + margin);

    // Vertical places.
    const moments = story.moments.filter((moment) => moment.at !== null);
    const top = 64;
    let y = top;
    const lanes = story.lanes.map((lane) => {
      const at = y;
      y += 6 + heading;
      const rows = lane.rows.map((row) => {
        const start = y;
        y += HEIGHTS[row.kind] + 3;
        return { row, y: start, height: HEIGHTS[row.kind] };
      });
      // A lane name of two lines needs room beside a lane of one row.
      const lines = Math.ceil(lane.name.length / 17) * 15 + Math.ceil((lane.note ?? "").length / 21) * 14;
      y = Math.max(y, at + (heading ? heading + 30 : lines + 4));
      y += 5;
      return { lane, at, rows, end: y };
    });
    const height = y + 4;

    const id = `p${serial++}`;
    const drawing = svg("svg", {
      class: "timeline", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", tabindex: "0",
      "aria-label": `Timeline: ${story.moments.length} numbered moments. Arrow keys go through the events; the table below has all of them.`,
    });
    const defs = svg("defs");
    for (const [name, size, d] of PATTERNS) {
      defs.append(svg("pattern", { id: `${id}-${name}`, width: size, height: size, patternUnits: "userSpaceOnUse", class: `pattern ${name}` }, svg("path", { d })));
    }
    drawing.append(defs);

    // Lanes' backgrounds, gaps, grave stretches.
    lanes.forEach(({ at, end }, index) => {
      drawing.append(svg("rect", { class: `lane ${index % 2 ? "odd" : "even"}`, x: 0, y: at, width, height: end - at }));
    });
    for (const [from, to] of story.axis.gaps) {
      const [x0, x1] = [X(from), X(to)];
      if (x1 - x0 < 3) continue;
      drawing.append(svg("rect", { class: "gap", x: x0, y: top - 12, width: x1 - x0, height: 8, fill: `url(#${id}-hatch)` }));
    }

    // The axis: a time wherever one fits.
    const axis = svg("g", { class: "axis" });
    axis.append(svg("line", { x1: 0, x2: width, y1: top - 4, y2: top - 4 }));
    const times = [...new Set([...moments.map((moment) => moment.at), ...(story.lanes[0]?.rows[0]?.bars ?? []).map((bar) => bar.a)])];
    times.sort((a, b) => a - b);
    let free = -Infinity;
    for (const time of times) {
      const x = X(time);
      const text = relative(time, story);
      axis.append(svg("line", { class: "notch", x1: x, x2: x, y1: top - 8, y2: top - 4 }));
      if (x >= free && x + text.length * 6 < width) {
        axis.append(Object.assign(svg("text", { x: x + 1, y: top - 12 }), { textContent: text }));
        free = x + text.length * 6 + 10;
      }
    }

    // Moments: numbered, with a line down to where they are.
    const marks = [];
    if (after) drawing.append(Object.assign(svg("text", { class: "after", x: width - 8, y: top - 12, "text-anchor": "end" }), { textContent: "afterwards" }), svg("line", { class: "end", x1: width - margin + 22, x2: width - margin + 22, y1: top - 8, y2: height }));
    const numbers = svg("g", { class: "moments" });
    let taken = -Infinity;
    for (const moment of moments) {
      const x = X(moment.at);
      const at = Math.max(x, taken + 19);
      taken = at;
      const tone = moment.grave ? "moment grave" : "moment";
      if (moment.until !== undefined && moment.grave) {
        numbers.append(svg("rect", { class: "stretch", x, y: top, width: Math.max(X(moment.until) - x, 2), height: height - top - 4 }));
      }
      numbers.append(svg("path", { class: `${tone} stem`, d: `M${at},22 L${x},36 V${height - 4}` }));
      const group = svg("g", { class: tone, "data-at": moment.at });
      group.append(svg("circle", { cx: at, cy: 13, r: 9 }));
      group.append(Object.assign(svg("text", { x: at, y: 17 }), { textContent: moment.number }));
      numbers.append(group);
      marks.push({ at: moment.at, node: group, tip: { title: moment.text, when: `at ${exactly(moment.at, story)}`, lane: `moment ${moment.number}`, kind: moment.grave ? "here it goes wrong" : "" } });
    }

    // Rows.
    const used = new Set();
    for (const { lane, rows } of lanes) {
      for (const { row, y: rowY, height: rowHeight } of rows) {
        const group = svg("g", { class: `row ${row.kind}` });
        const down = row.kind === "memory" ? 9 : 0;
        for (const bar of row.bars) {
          used.add(`bar ${bar.k}`);
          const x = X(bar.a);
          const w = Math.max(X(bar.b) - x, 2);
          const inner = bar.k === "hold" || bar.k === "blocked" ? 3 : 0;
          const node = svg("g", { class: `bar ${bar.k}`, "data-kind": bar.k });
          node.append(svg("rect", { x, y: rowY + down + inner, width: w, height: rowHeight - down - 2 * inner, rx: row.kind === "pin" ? 3 : 2 }));
          const fill = { hold: "hatch", mixed: "cross", unknown: "dots", zero: "dots", blocked: "hatch" }[bar.k];
          if (fill) node.append(svg("rect", { class: "texture", x, y: rowY + down + inner, width: w, height: rowHeight - down - 2 * inner, fill: `url(#${id}-${fill})` }));
          // A hold covers its request: one of the two names is enough.
          const covered = row.bars.some((other) => other !== bar && other.a >= bar.a && other.b <= bar.b && (other.k === "hold" || other.k === "blocked"));
          const name = row.kind === "others" || (bar.k === "write" && w < 64) ? "" : cut(bar.t ?? "", covered ? Math.min(w, X(row.bars.find((other) => other.k === "hold" || other.k === "blocked").a) - x) : w);
          if (name) node.append(Object.assign(svg("text", { x: x + 4, y: rowY + down + (rowHeight - down) / 2 + 4 }), { textContent: name }));
          marks.push({ at: bar.a, node, tip: describe(bar, lane, BARS, story) });
          group.append(node);
        }
        let labelled = Infinity;
        for (const tick of [...(row.ticks ?? [])].reverse()) {
          used.add(`tick ${tick.k}`);
          const x = tick.l ? width - 14 : X(tick.a);
          const node = svg("g", { class: `tick ${tick.k}`, "data-kind": tick.k });
          const middle = row.kind === "memory" ? rowY + 8 : rowY + rowHeight / 2;
          node.append(svg("rect", { class: "target", x: x - 8, y: middle - 9, width: 16, height: 18 }));
          if (tick.k === "good" || tick.k === "bad") node.append(svg("circle", { class: "plate", cx: x, cy: middle, r: 8.5 }));
          node.append(tickShape(tick.k, x, middle));
          const text = tick.t ?? "";
          const size = text.length * 6.1;
          // Labels go to the left of their tick, where earlier content is; they never cover one another.
          if (text && x - 10 - size > 0 && x + 8 < labelled) {
            node.append(svg("rect", { class: "plate", x: x - 13 - size, y: middle - 8, width: size + 5, height: 16, rx: 2 }));
            node.append(Object.assign(svg("text", { x: x - 10.5, y: middle + 4, "text-anchor": "end" }), { textContent: text }));
            labelled = x - 16 - size;
          }
          marks.push({ at: tick.a, node, tip: describe(tick, lane, TICKS, story) });
          group.append(node);
        }
        drawing.append(group);
      }
    }
    drawing.append(numbers, axis);

    // Names of lanes and rows stay where they are when the plot scrolls.
    const labels = el("div", { class: wide || fit ? "labels beside" : "labels above", "aria-hidden": "true" });
    labels.style.width = `${left}px`;
    labels.style.height = `${height}px`;
    for (const { lane, at, rows } of lanes) {
      const name = el("div", { class: "lane-name" }, el("b", {}, lane.name), lane.note ? el("small", {}, lane.note) : null);
      name.style.top = `${at + (heading ? 2 : 5)}px`;
      labels.append(name);
      for (const { row, y: rowY, height: rowHeight } of rows) {
        if (!ROWS[row.kind]) continue;
        const label = el("div", { class: "row-name" }, ROWS[row.kind]);
        label.style.top = `${rowY + (row.kind === "memory" ? 9 : 0)}px`;
        label.style.lineHeight = `${rowHeight - (row.kind === "memory" ? 9 : 0)}px`;
        labels.append(label);
      }
    }
    const scroll = el("div", { class: "scroll" }, drawing);
    if (fit) drawing.style.width = `${available}px`;
    scroll.style.marginLeft = `${left}px`;
    holder.append(labels, scroll);
    listen(figure, drawing, marks);
    legend(figure, used);
    // What matters first.
    const grave = moments.find((moment) => moment.grave) ?? moments[moments.length >> 1];
    if (grave && !fit && width > available) scroll.scrollLeft = X(grave.at) - available / 2;
  };

  // Tooltips by pointer and by keyboard.
  const tip = el("div", { class: "tip", role: "tooltip", id: "tip" });
  tip.hidden = true;
  document.body.append(tip);
  const show = (mark) => {
    tip.replaceChildren(el("b", {}, mark.tip.title), el("span", {}, mark.tip.when), el("small", {}, [mark.tip.lane, mark.tip.kind].filter(Boolean).join(" · ")));
    tip.hidden = false;
    const at = mark.node.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const x = Math.min(Math.max(at.left + Math.min(at.width, 60) / 2 - size.width / 2, 6), document.documentElement.clientWidth - size.width - 6);
    const above = at.top - size.height - 8;
    tip.style.left = `${Math.max(x, 6) + window.scrollX}px`;
    tip.style.top = `${(above > 4 ? above : at.bottom + 8) + window.scrollY}px`;
  };
  const hide = () => { tip.hidden = true; };
  const listen = (figure, drawing, marks) => {
    marks.sort((a, b) => a.at - b.at);
    for (const mark of marks) {
      mark.node.setAttribute("role", "img");
      mark.node.setAttribute("tabindex", "-1");
      mark.node.setAttribute("aria-label", `${mark.tip.title}, ${mark.tip.when}, ${mark.tip.lane}`);
      mark.node.addEventListener("pointerenter", () => show(mark));
      mark.node.addEventListener("pointerleave", hide);
      mark.node.addEventListener("focus", () => show(mark));
      mark.node.addEventListener("blur", hide);
    }
    drawing.addEventListener("keydown", (event) => {
      const at = marks.findIndex((mark) => mark.node === document.activeElement);
      const next = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: Math.max(at - 1, 0), ArrowUp: Math.max(at - 1, 0), Home: 0, End: marks.length - 1 }[event.key];
      if (event.key === "Escape") hide();
      if (next === undefined || !marks[next]) return;
      event.preventDefault();
      marks[next].node.focus();
      marks[next].node.scrollIntoView({ block: "nearest", inline: "center" });
      show(marks[next]);
    });
  };
  document.addEventListener("scroll", hide, { passive: true, capture: true });

  const legend = (figure, used) => {
    const list = figure.querySelector(".legend");
    list.replaceChildren();
    const sample = (kind, name, words) => {
      const id = `p${serial++}`;
      const picture = svg("svg", { width: 26, height: 16, "aria-hidden": "true", class: "timeline sample" });
      const defs = svg("defs");
      for (const [pattern, size, d] of PATTERNS) {
        defs.append(svg("pattern", { id: `${id}-${pattern}`, width: size, height: size, patternUnits: "userSpaceOnUse", class: `pattern ${pattern}` }, svg("path", { d })));
      }
      const node = svg("g", { class: `${kind} ${name}` });
      if (kind === "bar") {
        const thin = name === "pin";
        const box = { x: 1, y: thin ? 4 : 2, width: 24, height: thin ? 8 : 12, rx: 2 };
        node.append(svg("rect", box));
        const fill = { hold: "hatch", mixed: "cross", unknown: "dots", zero: "dots", blocked: "hatch" }[name];
        if (fill) node.append(svg("rect", { class: "texture", ...box, fill: `url(#${id}-${fill})` }));
      } else {
        node.append(tickShape(name, 13, 9));
      }
      picture.append(defs, node);
      list.append(el("li", {}, picture, words));
    };
    for (const [name, words] of Object.entries(BARS)) if (used.has(`bar ${name}`)) sample("bar", name, words);
    for (const [name, words] of Object.entries(TICKS)) if (used.has(`tick ${name}`)) sample("tick", name, words);
    list.append(el("li", { class: "scale" }, "Times count from moment 1. Widths are not to scale: order and overlap are exact, durations are written. Hatched on the axis: nothing happens."));
  };

  // ---------- details of a case

  const section = (title, ...children) => el("section", {}, el("h3", {}, title), ...children);

  const hexLine = (own, other, title, place) => {
    const line = el("div", { class: "bytes" });
    line.append(el("span", { class: "place" }, place), el("span", { class: "who" }, title));
    const code = el("code");
    for (let at = 0; at < own.length; at += 2) {
      const byte = own.slice(at, at + 2);
      const differs = byte !== other.slice(at, at + 2);
      code.append(differs ? el("mark", {}, byte) : byte, at % 16 === 14 ? "  " : " ");
    }
    line.append(code);
    return line;
  };

  const hex = (diffs) => diffs.map((diff) => {
    const box = el("figure", { class: "hex" }, el("figcaption", {}, el("b", {}, diff.title), ` ${diff.note}`));
    for (const line of diff.lines) {
      box.append(hexLine(line.before, line.after, diff.before, `byte ${line.offset}`), hexLine(line.after, line.before, diff.after, ""));
    }
    return box;
  });

  const placed = (rows) => {
    const body = el("tbody");
    for (const row of rows) {
      const same = (text) => el("td", { class: text !== "–" && text !== row.memory && row.differ ? "differs" : "" }, text);
      body.append(el("tr", {}, el("th", { scope: "row" }, row.pages), el("td", {}, row.memory), same(row.guest), same(row.host)));
    }
    const head = el("thead", {}, el("tr", {}, ...["Pages", "Memory, last", "Guest reads", "Host reads"].map((name) => el("th", { scope: "col" }, name))));
    return el("div", { class: "wide" }, el("table", { class: "plain" }, el("caption", { class: "hidden" }, "Content at the end"), head, body));
  };

  const events = (story) => {
    const rows = [];
    for (const lane of story.lanes) {
      for (const row of lane.rows) {
        for (const bar of row.bars) rows.push([bar.a, lane.name, bar.d || bar.t, bar.b - bar.a, BARS[bar.k]]);
        for (const tick of row.ticks ?? []) rows.push([tick.a, lane.name, tick.d || tick.t, 0, TICKS[tick.k]]);
      }
    }
    rows.sort((a, b) => a[0] - b[0]);
    const body = el("tbody");
    for (const [at, lane, what, lasting, kind] of rows) {
      body.append(el("tr", {}, el("td", { class: "num" }, exactly(at, story)), el("td", { class: "num" }, lasting ? exact(lasting) : ""), el("td", {}, lane), el("td", {}, what, " ", el("small", {}, `(${kind})`))));
    }
    const head = el("thead", {}, el("tr", {}, ...["At", "Lasting", "Lane", "What"].map((name) => el("th", { scope: "col" }, name))));
    return el("div", { class: "wide" }, el("table", { class: "plain" }, el("caption", { class: "hidden" }, "Events in the order of time"), head, body));
  };

  const folded = (title, make) => {
    const box = el("details", {}, el("summary", {}, title));
    box.addEventListener("toggle", () => { if (box.open && box.childElementCount === 1) box.append(make()); });
    return box;
  };

  const drawn = new Map();
  const details = (number) => {
    const data = parse(`data-${number}`);
    const story = data.story;
    const lore = shared.lore[data.scenario];
    const box = el("div", { class: "inside" });
    if (lore) box.append(el("p", { class: "title" }, lore.title));
    const verdict = el("ul", { class: "verdict" });
    for (const word of [...data.observations].reverse()) {
      verdict.append(el("li", {}, el("b", {}, word), " ", first(shared.words[word] ?? "")));
    }
    verdict.append(el("li", {}, el("b", {}, data.outcome), " ", first(shared.outcomes[data.outcome] ?? "")));
    if (story) box.append(el("p", { class: "lead" }, story.lead));
    else box.append(el("p", { class: "notice" }, data.missing ?? ""));
    box.append(verdict);
    if (story) {
      const figure = el("figure", { class: "drawing" }, el("div", { class: "plot" }), el("ul", { class: "legend", "aria-label": "Legend" }));
      const list = el("ol", { class: "moments" });
      for (const moment of story.moments) {
        list.append(el("li", { class: moment.grave ? "grave" : "" }, el("span", { class: "when" }, moment.at === null ? "" : relative(moment.at, story)), " ", moment.text));
      }
      if (story.lanes.length) box.append(section("What happened, on one clock", figure));
      if (story.moments.length) box.append(section("Step by step", list));
      if (story.lanes.length) drawn.set(number, { figure, story });
      if (story.placed.length) box.append(section("Who holds what in the end", placed(story.placed)));
      if (story.hex.length) box.append(section("The bytes", ...hex(story.hex)));
      for (const note of story.notes) box.append(el("p", { class: "note" }, note));
    }
    const why = [];
    if (data.why) why.push(el("p", {}, el("b", {}, "Expected, because "), `${data.why}.`));
    if (lore && lore.mechanism) why.push(el("p", {}, el("b", {}, "The mechanism. "), lore.mechanism));
    why.push(el("p", { class: "reason" }, el("b", {}, "The verdict in the run's own words: "), data.reason));
    box.append(section("Why", ...why));
    if (data.log.length) {
      const lines = data.log.map((line) => el("li", {}, el("code", {}, line.text), line.meaning ? ` ${line.meaning}` : ""));
      box.append(section("Kernel log", el("ul", { class: "log" }, ...lines)));
    }
    if (story && story.fsck) {
      const good = story.fsck.code === 0 ? "nothing to report" : `exit code ${story.fsck.code}`;
      box.append(folded(`The file system's own checker: ${good}`, () => el("pre", {}, `$ ${story.fsck.command}\n${story.fsck.output}`)));
    }
    if (story && story.lanes.length) box.append(folded("All events as a table, with exact times", () => events(story)));
    return box;
  };

  const rows = [...document.querySelectorAll("tr.case")];
  const open = (row, yes, scroll) => {
    const number = row.dataset.number;
    const detail = document.getElementById(`detail-${number}`);
    row.querySelector("button.open").setAttribute("aria-expanded", String(yes));
    row.classList.toggle("is-open", yes);
    detail.hidden = !yes;
    if (yes && !detail.firstElementChild.firstChild) {
      detail.firstElementChild.append(details(number));
    }
    const made = drawn.get(number);
    if (yes && made) draw(made.figure, made.story, false);
    if (yes && scroll) row.scrollIntoView({ block: "start" });
  };
  for (const row of rows) {
    row.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      open(row, row.querySelector("button.open").getAttribute("aria-expanded") !== "true", false);
    });
  }

  // ---------- filter

  const find = document.getElementById("find");
  const fs = document.getElementById("fs");
  const outcomes = [...document.querySelectorAll("input[name=outcome]")];
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set(outcomes.filter((box) => box.checked).map((box) => box.value));
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const yes = wanted.has(row.dataset.outcome) && (!fs.value || row.dataset.fs === fs.value) && words.every((word) => text.includes(word));
      row.hidden = !yes;
      const opened = row.querySelector("button.open").getAttribute("aria-expanded") === "true";
      document.getElementById(`detail-${row.dataset.number}`).hidden = !yes || !opened;
      count += yes ? 1 : 0;
    }
    document.getElementById("shown").textContent = count === rows.length ? `all ${count} shown` : `${count} of ${rows.length} shown`;
    document.getElementById("nothing").hidden = count > 0;
  };
  document.getElementById("filter").addEventListener("input", filter);
  document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
  filter();

  // ---------- the rest

  const copy = document.getElementById("copy");
  if (!navigator.clipboard) copy.hidden = true;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById("command").textContent);
    copy.textContent = "Copied";
  });

  const redraw = (fit) => {
    for (const [number, { figure, story }] of drawn) {
      if (!document.getElementById(`detail-${number}`).hidden) draw(figure, story, fit);
    }
  };
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    redraw(false);
  });
  window.addEventListener("beforeprint", () => redraw(true));
  window.addEventListener("afterprint", () => redraw(false));

  // A link may name a case; else the first that has something to tell is open.
  const named = () => {
    const label = decodeURIComponent(location.hash.replace(/^#case=/, ""));
    return location.hash.startsWith("#case=") ? rows.find((row) => row.dataset.label === label) : undefined;
  };
  window.addEventListener("hashchange", () => { const row = named(); if (row) open(row, true, true); });
  const start = named();
  if (start) open(start, true, true);
  else if (rows.length) open(rows.find((row) => row.dataset.outcome !== "pass") ?? rows[0], true, false);
  document.documentElement.dataset.ready = "yes";
})();
