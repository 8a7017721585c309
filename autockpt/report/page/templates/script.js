"use strict";
(async () => {
  const NUM_FIRST = 20;
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  function size(bytes) {
    for (const [unit, factor] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]])
      if (Math.round((bytes / factor) * 100) / 100 >= 1) return `${(bytes / factor).toFixed(2)} ${unit}`;
    return `${bytes} B`;
  }
  function time(ns) {
    for (const [unit, factor] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3], ["ns", 1]])
      if (ns >= factor || factor === 1) {
        const value = ns / factor;
        return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ${unit}`;
      }
  }
  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(one(`#${id}`).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }
  function save(text, name) {
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  for (const button of all("[data-tree]"))
    button.addEventListener("click", () => {
      for (const branch of all(".tree details")) branch.open = button.dataset.tree === "open";
    });
  const planButton = one('[data-save="plan"]');
  if (planButton) planButton.addEventListener("click", async () => save(await unpacked("json"), "plan.json"));

  let data;
  try {
    data = JSON.parse(await unpacked("data"));
  } catch (error) {
    const failed = one("#failed");
    if (failed) failed.hidden = false;
    return;
  }
  if (!data.timelines) return;

  // The moments of a timeline: when each begins, what it has in memory, what runs.
  function moments(line) {
    const graph = data.graphs[line.graph];
    const num = line.steps.length;
    const start = new Float64Array(num + 1), runs = new Int32Array(num), change = new Float64Array(num + 1);
    const fixed = line.fixed.reduce((sum, [, bytes]) => sum + bytes, 0);
    for (let at = 0; at < line.lives.length; at += 4) {
      change[line.lives[at + 1]] += graph.storages[line.lives[at]][1];
      change[line.lives[at + 2]] -= graph.storages[line.lives[at]][1];
    }
    const seen = new Map(), total = new Float64Array(num);
    let bytes = fixed;
    line.steps.forEach((step, at) => {
      bytes += change[at];
      const op = step >= 0 ? graph.ops[step] : null;
      total[at] = bytes + (op ? op[4] : 0) + (at === line.peak ? line.alone[1] : 0);
      start[at + 1] = start[at] + (op ? op[3] : 0);
      if (op) {
        runs[at] = (seen.get(step) || 0) + 1;
        seen.set(step, runs[at]);
      }
    });
    return { ...line, graph, start, total, runs, num, duration: start[num] };
  }
  const lines = Object.fromEntries(Object.entries(data.timelines).map(([key, line]) => [key, moments(line)]));
  const longest = Math.max(...Object.values(lines).map((line) => line.duration), 1);

  function running(line, at) {
    while (at > 0 && line.steps[at] < 0) at -= 1;
    return line.steps[at] >= 0 ? at : -1;
  }
  function sourceOf(graph, op) {
    return graph.ops[op][2] >= 0 ? graph.lines[graph.ops[op][2]] : null;
  }
  function alive(line, at) {
    const found = line.fixed.map(([kind, bytes]) => ({ bytes, kind, name: data.kinds[kind][0], op: -1 }));
    for (let k = 0; k < line.lives.length; k += 4)
      if (line.lives[k + 1] <= at && at < line.lives[k + 2]) {
        const [name, bytes, op] = line.graph.storages[line.lives[k]];
        found.push({ bytes, kind: line.lives[k + 3], name, op });
      }
    const step = line.steps[at];
    if (step >= 0 && line.graph.ops[step][4])
      found.push({ bytes: line.graph.ops[step][4], kind: line.graph.ops[step][6], name: `workspace of ${line.graph.ops[step][0]}`, op: step });
    if (at === line.peak && line.alone[1])
      found.push({ bytes: line.alone[1], kind: line.alone[0], name: data.kinds[line.alone[0]][0], op: -1 });
    return found.sort((a, b) => b.bytes - a.bytes);
  }
  function madeBy(line, at) {
    let made = 0;
    for (let k = 0; k < line.lives.length; k += 4)
      if (line.lives[k + 1] === at) made += line.graph.storages[line.lives[k]][1];
    return made;
  }
  function words(line, at) {
    const where = running(line, at);
    if (where < 0) return { phase: "before the forward", name: "", module: "", source: null, again: false };
    const op = line.graph.ops[line.steps[where]];
    return {
      phase: where > line.forwardEnd ? "backward" : "forward",
      name: op[0], module: line.graph.modules[op[1]], source: sourceOf(line.graph, line.steps[where]), again: line.runs[where] > 1,
    };
  }
  function sentence(line, at) {
    const { phase, name, module, source, again } = words(line, at);
    return `${time(line.start[at])}: ${size(line.total[at])} in memory, in the ${phase}${module ? ` of ${module}` : ""}` +
      (name ? ` (${name}${again ? " again" : ""}${source ? `, ${source[0]}` : ""})` : "");
  }
  // The moment with the most memory among those that a column of the picture covers.
  function momentAt(line, share, width) {
    const from = (share - 0.5 / width) * longest, to = (share + 0.5 / width) * longest;
    let low = 0, high = line.num;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (line.start[middle + 1] < from) low = middle + 1;
      else high = middle;
    }
    let best = Math.min(low, line.num - 1);
    for (let at = best; at < line.num && line.start[at] <= to; at += 1)
      if (line.total[at] > line.total[best]) best = at;
    return best;
  }

  let chosen = null;
  let numShown = NUM_FIRST;
  const area = one("#alive");
  function showTensors() {
    const [key, at] = chosen;
    const line = lines[key];
    const found = alive(line, at);
    const body = one("#tensors tbody");
    body.replaceChildren();
    const most = found.length ? found[0].bytes : 1;
    for (const each of found.slice(0, numShown)) {
      const row = element("tr");
      const [kind, group] = data.kinds[each.kind];
      row.append(element("td", size(each.bytes), "num"));
      const share = element("div", undefined, `share ${data.groups[group][0]}`);
      share.style.width = `${(100 * each.bytes) / most}%`;
      row.insertCell().append(share);
      row.insertCell().append(element("code", each.name));
      const kindCell = row.insertCell();
      kindCell.append(element("i", undefined, `swatch ${data.groups[group][0]}`), kind);
      row.append(element("td", each.op >= 0 ? line.graph.modules[line.graph.ops[each.op][1]] || "–" : "–"));
      const source = each.op >= 0 ? sourceOf(line.graph, each.op) : null;
      const cell = element("td", source ? source[0].split("/").at(-1) : "–");
      if (source) cell.title = source.join("\n");
      row.append(cell);
      body.append(row);
    }
    const more = one("#more");
    more.hidden = found.length <= numShown;
    more.textContent = `Show all ${found.length} tensors`;
    one("#moment").textContent = `${one(`[data-line="${key}"] figcaption b`).textContent}, after ${sentence(line, at)}. ${found.length} entries, largest first:`;
  }
  function choose(key, at) {
    chosen = [key, at];
    numShown = NUM_FIRST;
    for (const panel of all("[data-line]")) {
      const mark = one(".chosen", panel);
      mark.hidden = panel.dataset.line !== key;
      mark.style.left = `${(100 * lines[key].start[at]) / longest}%`;
      if (panel.dataset.line === key) {
        const slider = one("input", panel);
        slider.value = lines[key].start[at];
        slider.setAttribute("aria-valuetext", sentence(lines[key], at));
      }
    }
    showTensors();
  }
  function showTip(panel, key, at, left) {
    const line = lines[key];
    const tip = one(".tip", panel), cross = one(".cross", panel);
    const { phase, name, module, source, again } = words(line, at);
    tip.replaceChildren(element("b", `${size(line.total[at])} after ${time(line.start[at])}`));
    const made = madeBy(line, running(line, at));
    tip.append(element("div", `${phase}: ${name}${again ? ", again" : ""}${made ? `, makes ${size(made)}` : ""}`));
    if (module) tip.append(element("div", module));
    if (source) {
      tip.append(element("div", source[0]));
      if (source[1]) tip.append(element("code", source[1]));
    }
    const sums = data.groups.map(() => 0);
    for (const each of alive(line, at)) sums[data.kinds[each.kind][1]] += each.bytes;
    data.groups.forEach(([groupKey, label], number) => {
      const sum = sums[data.groups.length - 1 - number], group = data.groups[data.groups.length - 1 - number];
      if (!sum) return;
      const row = element("div", undefined, "row"), left = element("span");
      left.append(element("i", undefined, `swatch ${group[0]}`), group[1]);
      row.append(left, element("span", size(sum)));
      tip.append(row);
    });
    tip.hidden = cross.hidden = false;
    cross.style.left = `${left}px`;
    const width = one(".plot", panel).clientWidth;
    const room = width - tip.offsetWidth;
    tip.style.left = `${Math.max(0, left > width / 2 ? left - tip.offsetWidth - 14 : Math.min(room, left + 14))}px`;
  }
  for (const panel of all("[data-line]")) {
    const key = panel.dataset.line, line = lines[key], plot = one(".plot", panel), slider = one("input", panel);
    const at = (event) => {
      const box = plot.getBoundingClientRect();
      const left = Math.min(box.width, Math.max(0, event.clientX - box.left));
      return [momentAt(line, left / box.width, box.width), left];
    };
    plot.addEventListener("pointermove", (event) => showTip(panel, key, ...at(event)));
    plot.addEventListener("pointerleave", () => { one(".tip", panel).hidden = one(".cross", panel).hidden = true; });
    plot.addEventListener("click", (event) => choose(key, at(event)[0]));
    slider.max = longest;
    slider.value = line.start[line.peak];
    slider.disabled = false;
    slider.setAttribute("aria-valuetext", sentence(line, line.peak));
    slider.addEventListener("input", () => choose(key, momentAt(line, slider.value / longest, plot.clientWidth || 1000)));
    slider.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -20, PageUp: 20 }[event.key];
      if (!by) return;
      event.preventDefault();
      const now = chosen[0] === key ? chosen[1] : line.peak;
      choose(key, Math.min(line.num - 1, Math.max(0, now + by)));
    });
  }
  for (const button of all("[data-go]"))
    button.addEventListener("click", () => {
      const [key, what] = button.dataset.go.split(":");
      if (what) {
        const line = lines[key];
        choose(key, what === "peak" ? line.peak : Math.max(0, line.forwardEnd));
      } else {
        const [now, at] = chosen;
        choose(now, Math.min(lines[now].num - 1, Math.max(0, at + (key === "next" ? 1 : -1))));
      }
    });
  if (area) {
    one("#more").addEventListener("click", () => { numShown = Infinity; showTensors(); });
    area.hidden = false;
    const first = Object.keys(lines).at(-1);
    choose(first, lines[first].peak);
  }

  const code = one("#code");
  if (code)
    code.addEventListener("toggle", () => {
      const listing = one("pre", code);
      if (code.open && !listing.textContent) listing.textContent = data.code;
    });

  // Chrome's trace format: a process for each timeline, with what runs, and counters of memory.
  function trace() {
    const events = [];
    Object.entries(lines).forEach(([key, line], number) => {
      const pid = number + 1;
      const named = (name, tid, value) => events.push({ ph: "M", pid, tid, name, args: { name: value } });
      named("process_name", 0, one(`[data-line="${key}"] figcaption b`).textContent);
      named("thread_name", 1, "forward");
      named("thread_name", 2, "backward");
      named("thread_name", 3, "recomputed");
      const sums = data.groups.map(() => 0), changes = line.steps.map(() => []);
      changes.push([]);
      for (const [kind, bytes] of line.fixed) sums[data.kinds[kind][1]] += bytes;
      for (let k = 0; k < line.lives.length; k += 4) {
        const bytes = line.graph.storages[line.lives[k]][1], group = data.kinds[line.lives[k + 3]][1];
        changes[line.lives[k + 1]].push([group, bytes]);
        changes[line.lives[k + 2]].push([group, -bytes]);
      }
      line.steps.forEach((step, at) => {
        for (const [group, bytes] of changes[at]) sums[group] += bytes;
        if (step < 0 && line.steps[at + 1] < 0) return;
        const ts = line.start[at] / 1000, op = step >= 0 ? line.graph.ops[step] : null;
        const workspace = data.groups.length - 1;
        const args = Object.fromEntries(data.groups.map(([, label], group) => [label, sums[group] + (op && group === workspace ? op[4] : 0)]));
        events.push({ ph: "C", pid, name: "memory", ts, args });
        if (!op) return;
        const source = sourceOf(line.graph, step);
        events.push({
          ph: "X", pid, tid: line.runs[at] > 1 ? 3 : op[5] ? 2 : 1, name: op[0], ts, dur: op[3] / 1000,
          args: { module: line.graph.modules[op[1]], line: source ? source[0] : "", "bytes in memory": line.total[at] },
        });
      });
    });
    return JSON.stringify({ displayTimeUnit: "ms", traceEvents: events });
  }
  const traceButton = one('[data-save="trace"]');
  if (traceButton) traceButton.addEventListener("click", () => save(trace(), "trace.json"));
})();
