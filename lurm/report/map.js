// The map of interests: draws the data block "map-data" into #map, with hover, search, and colours by anchor or by growth.
// All text from data goes in as text, never as markup.
(function () {
  "use strict";
  const box = document.getElementById("map"), block = document.getElementById("map-data");
  if (!box || !block) return;
  const data = JSON.parse(block.textContent);
  const unpack = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const ids = unpack(data.ids, Uint32Array), xs = unpack(data.x, Uint16Array), ys = unpack(data.y, Uint16Array);
  const users = unpack(data.users, Uint32Array), events = unpack(data.events, Uint32Array), anchor = unpack(data.anchor, Uint16Array);
  const share = unpack(data.share, Uint8Array), growth = Float32Array.from(unpack(data.growth, Int16Array), (v) => v / 256);
  const n = data.n_shown, all = data.n, many = all > 5000;
  const texts = data.names.map((name, i) => (name + "\n" + data.titles[i].join("\n")).toLowerCase());
  const $ = (id) => document.getElementById(id);
  const card = $("map-card"), search = $("map-search"), found = $("map-found"), hits = $("map-hits"), legend = $("map-legend");
  const number = new Intl.NumberFormat("en");
  const state = { mode: "anchor", only: null, words: [], chosen: null };

  const styles = () => {
    const css = getComputedStyle(document.documentElement), get = (name) => css.getPropertyValue(name).trim();
    return { card: get("--card"), ink: get("--ink"), quiet: get("--faint"), accent: get("--accent"), down: get("--cold"), zero: get("--middle"), up: get("--warm") };
  };
  const webgl = (() => {
    try { const c = document.createElement("canvas"); return !!(c.getContext("webgl2") || c.getContext("webgl")); } catch (e) { return false; }
  })();
  const kind = webgl ? "scattergl" : "scatter";
  if (!webgl && many) {
    box.textContent = "This browser draws no WebGL, which a map of " + number.format(all) + " interests needs.";
    return;
  }

  const narrow = () => box.clientWidth < 560;
  const sizes = () => {
    const largest = Math.max(5, Math.min(30, 900 / Math.sqrt(all))) * (narrow() ? 0.7 : 1), most = Math.sqrt(users[0] || 1);
    const smallest = Math.max(1.8, largest / 5);
    return Float32Array.from(users, (u) => smallest + (largest - smallest) * Math.sqrt(u) / most);
  };
  const colours = (style) => {
    if (state.mode === "growth") {
      return { color: Array.from(growth), cmin: -2, cmax: 2, colorscale: [[0, style.down], [0.5, style.zero], [1, style.up]] };
    }
    const m = data.n_anchors, scale = [];
    data.colours.forEach((c, i) => scale.push([i / m, c], [(i + 1) / m, c]));
    return { color: Array.from(anchor), cmin: -0.5, cmax: m - 0.5, colorscale: scale };
  };
  const matches = (i) => state.words.every((word) => texts[i].includes(word));
  const active = () => {
    if (state.only === null && !state.words.length) return null;
    const chosen = new Uint8Array(n);
    for (let i = 0; i < n; i++) chosen[i] = (state.only === null || anchor[i] === state.only) && matches(i) ? 1 : 0;
    return chosen;
  };
  const opacity = (chosen) => {
    const full = all > 20000 ? 0.7 : 0.82;
    return chosen ? Array.from(chosen, (c) => (c ? 0.95 : 0.07)) : full;
  };
  const ringed = (chosen) => {
    const result = [];
    if (chosen && state.words.length) for (let i = 0; i < n && result.length <= 500; i++) if (chosen[i]) result.push(i);
    return result.length <= 500 ? result : [];  // rings around more points would hide them
  };
  const traces = () => {
    const style = styles(), chosen = state.chosen = active(), rings = ringed(chosen), size = sizes(), few = chosen ? 0.12 : 0.45;
    return [
      { type: kind, mode: "markers", hoverinfo: "none", x: xs.subarray(n), y: ys.subarray(n),
        marker: { color: style.quiet, size: Math.max(2, size.length ? size[size.length - 1] * 0.6 : 4), opacity: few, line: { width: 0 } } },
      { type: kind, mode: "markers", hoverinfo: "none", x: xs.subarray(0, n), y: ys.subarray(0, n),
        marker: Object.assign({ size: size, opacity: opacity(chosen), line: { width: many ? 0 : 0.8, color: style.card } }, colours(style)) },
      { type: kind, mode: "markers", hoverinfo: "skip", x: rings.map((i) => xs[i]), y: rings.map((i) => ys[i]),
        marker: { symbol: "circle-open", color: style.ink, size: rings.map((i) => size[i] + 5), line: { width: 1.4 } } },
    ];
  };
  const whole = () => {
    // The directions mean nothing by themselves, so the plane may be stretched a little to use the room, but not beyond 1.7.
    const pad = 3200, across = box.clientWidth || 1, up = box.clientHeight || 1;
    let right = 0, top = 0;
    for (let i = 0; i < all; i++) { if (xs[i] > right) right = xs[i]; if (ys[i] > top) top = ys[i]; }
    const needed = [(right + 2 * pad) / across, (top + 2 * pad) / up], least = Math.max(needed[0], needed[1]) / 1.7;
    const [wide, high] = needed.map((scale) => Math.max(scale, least));
    return { "xaxis.range": [right / 2 - wide * across / 2, right / 2 + wide * across / 2],
             "yaxis.range": [top / 2 - high * up / 2, top / 2 + high * up / 2] };
  };
  const axis = (range) => ({ visible: false, range: range, fixedrange: false, showgrid: false, zeroline: false });
  const start = whole();
  const layout = {
    margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, hovermode: "closest", hoverdistance: 14, dragmode: narrow() ? false : "pan",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis(start["xaxis.range"]), yaxis: axis(start["yaxis.range"]),
    autosize: true,
  };
  const config = { displayModeBar: false, scrollZoom: !narrow(), responsive: true, doubleClick: false, plotGlPixelRatio: all > 20000 ? 1 : 2 };
  const fluid = many && webgl;
  if (fluid) {
    // A point's edge is soft by itself: four samples a pixel show nothing more and cost more than the points do. And Plotly's second layer,
    // which is always empty here, would be laid over the first one in every frame; the style sheet leaves it out.
    const context = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (name, wishes) {
      return context.call(this, name, wishes && box.contains(this) ? Object.assign({}, wishes, { antialias: false }) : wishes);
    };
    box.classList.add("many");
  }

  // While the view of a large map moves, only some of the points in it are drawn, those of most users first, as many as frames leave time for;
  // REST after the last movement all of them. Plotly has no such mode: the draw function of its scene is replaced, the data stay where they are.
  const motion = (() => {
    const REST = 100, LEAST = 2000, QUICK = 20, SLOW = 30;  // milliseconds, points, and milliseconds from frame to frame, twice
    let scene = null, every = null, seen = "", moving = false, moved = 0, asked = false, before = 0, painted = 0;
    let budget = 8000, growth = 2, short = false, gaps = [];
    const place = () => ((box._fullLayout._plots || {}).xy || {})._scene;
    const ranges = () => [box._fullLayout.xaxis.range, box._fullLayout.yaxis.range];
    const wipe = () => box._fullLayout._glcanvas.each((layer) => { if (layer.regl) layer.regl.clear({ color: true, depth: true }); });
    const some = () => {
      const named = new Uint32Array(budget), rare = new Uint32Array(budget), chosen = state.chosen;
      const wider = ([from, to], pixels) => [from - 20 * (to - from) / pixels, to + 20 * (to - from) / pixels];  // half a large point beyond the edge
      const [[left, right], [low, high]] = ranges().map((range, i) => wider(range, i ? box.clientHeight : box.clientWidth));
      const inside = (i) => xs[i] > left && xs[i] < right && ys[i] > low && ys[i] < high;
      let taken = 0, grey = 0;
      for (const wanted of chosen ? [1, 0] : [1])
        for (let i = 0; i < n && taken < budget; i++) if ((!chosen || chosen[i] === wanted) && inside(i)) named[taken++] = i;
      for (let i = n; i < all && taken + grey < budget; i++) if (inside(i)) rare[grey++] = i - n;
      short = taken + grey === budget;
      const parts = [];  // as Plotly has them: a trace without points has no place; undefined is the whole of the rings
      if (all > n) parts.push(rare.subarray(0, grey));
      if (n) parts.push(named.subarray(0, taken).sort());  // sorted: a small point lies over a large one
      scene.scatter2d.draw(...parts, undefined);
    };
    const pace = (gap) => {
      gaps.push(gap);
      if (gaps.length < 5 && gaps.reduce((a, b) => a + b) < 150) return;
      const calm = gaps.sort((a, b) => a - b).slice(0, Math.max(1, gaps.length - 1)), mean = calm.reduce((a, b) => a + b) / calm.length;
      gaps = [];  // one slow frame may be another program's
      if (mean > SLOW) {
        budget = Math.max(LEAST, Math.round(budget * Math.max(0.25, QUICK / mean)));
        growth = 1.25;
      } else if (mean < QUICK && short) budget = Math.min(all, Math.round(budget * growth));
    };
    const frame = (now) => {
      if (place() !== scene) { moving = false; return; }
      if (before && painted-- > 0) pace(now - before);  // what is painted is felt in the two frames after it
      before = now;
      if (asked) {  // first, or where a frame takes longer than REST each would be one of all points
        asked = false;
        painted = 2;
        wipe();
        some();
      } else if (performance.now() - moved > REST) {
        moving = false;
        wipe();
        every();
        return;
      }
      requestAnimationFrame(frame);
    };
    const draw = () => {
      const view = ranges().join();
      if (view !== seen) {
        seen = view;
        moved = performance.now();
        if (!moving) {
          moving = true;
          before = painted = 0;
          requestAnimationFrame(frame);
        }
      }
      asked = true;
      if (moving) scene.dirty = false;  // what Plotly's own draw ends with
      else every();
    };
    const hold = () => {
      const found = place();
      if (!fluid || !found || found === scene || !found.scatter2d || !found.scatter2d.draw) return;
      scene = found;
      every = scene.draw;
      scene.draw = draw;
      seen = ranges().join();
      const upload = scene.scatter2d.update;
      let there = scene.markerOptions;
      scene.scatter2d.update = (...given) => {  // Plotly sends all points again whenever a movement ends
        if (given[0] === there) return;
        if (given[0] === scene.markerOptions) there = given[0];
        upload(...given);
      };
    };
    return { hold: hold, moving: () => moving };
  })();
  const redraw = () => { layout.datarevision = (layout.datarevision || 0) + 1; return Plotly.react(box, traces(), box.layout || layout, config); };

  const line = (parent, words, style) => {
    const p = document.createElement("p");
    p.textContent = words;
    if (style) p.className = style;
    parent.appendChild(p);
    return p;
  };
  const grown = (i) => {
    const ratio = Math.pow(2, growth[i]), percent = 100 * ratio;
    return "events at " + (ratio >= 10 ? number.format(Math.round(ratio)) + " times" : percent.toFixed(percent < 10 ? 1 : 0) + " % of") +
      " those of the three months before";
  };
  const tell = (i, pointer) => {
    card.replaceChildren();
    if (i >= n) {
      line(card, "Fewer than " + data.min_users + " users", "name");
      line(card, "What few people share is not named.", "quiet");
    } else {
      const name = line(card, data.names[i], "name");
      name.style.borderColor = data.colours[anchor[i]];
      line(card, number.format(users[i]) + " users · " + number.format(events[i]) + " events");
      line(card, "anchor " + anchor[i] + " takes " + Math.round(share[i] / 2.55) + " % · " + grown(i), "quiet");
      data.titles[i].slice(0, narrow() ? 2 : 3).forEach((title) => line(card, title, "title"));
    }
    card.dataset.interest = ids[i];
    card.hidden = false;
    const room = box.getBoundingClientRect(), wide = card.offsetWidth, high = card.offsetHeight;
    if (!pointer || narrow()) {  // along the edge that is farther from the finger
      const below = !pointer || pointer.clientY - room.top < room.height / 2;
      card.style.left = "8px";
      card.style.top = (below ? Math.max(8, room.height - high - 8) : 8) + "px";
      return;
    }
    const x = pointer.clientX - room.left, y = pointer.clientY - room.top;
    card.style.left = Math.max(4, x + 18 + wide > room.width ? x - wide - 18 : x + 18) + "px";
    card.style.top = Math.max(4, Math.min(y + 14, room.height - high - 4)) + "px";
  };
  const point = (happened) => {
    const p = happened.points[0];
    if (motion.moving()) return;
    if (p.curveNumber < 2) tell(p.curveNumber === 0 ? n + p.pointNumber : p.pointNumber, happened.event);
  };
  const zoom = (factor, x, y) => {
    const next = {};
    ["x", "y"].forEach((letter) => {
      const range = box.layout[letter + "axis"].range, middle = letter === "x" && x !== undefined ? x : letter === "y" && y !== undefined ? y
        : (range[0] + range[1]) / 2, half = (range[1] - range[0]) / 2 * factor;
      next[letter + "axis.range"] = [middle - half, middle + half];
    });
    return Plotly.relayout(box, next);
  };

  const look = () => {
    state.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    hits.replaceChildren();
    const best = [];
    let count = 0;
    if (state.words.length) {
      const named = [], titled = [];  // both by users; those whose name has the words stand first
      for (let i = 0; i < n; i++) if (matches(i)) {
        count++;
        const list = state.words.every((word) => data.names[i].toLowerCase().includes(word)) ? named : titled;
        if (list.length < 6) list.push(i);
      }
      best.push(...named.concat(titled).slice(0, 6));
      found.textContent = count ? number.format(count) + (count === 1 ? " interest" : " interests") : "no interest with that word";
    } else found.textContent = "";
    best.forEach((i) => {
      const item = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.textContent = data.names[i] + " (" + number.format(users[i]) + ")";
      button.addEventListener("click", () => zoom(Math.min(1, 9000 / (box.layout.xaxis.range[1] - box.layout.xaxis.range[0])), xs[i], ys[i])
        .then(() => tell(i, null)));
      item.appendChild(button);
      hits.appendChild(item);
    });
    card.hidden = true;
    redraw();
  };
  const choose = (only) => {
    state.only = state.only === only ? null : only;
    document.querySelectorAll("[data-anchor]").forEach((b) => b.setAttribute("aria-pressed", String(Number(b.dataset.anchor) === state.only)));
    redraw();
  };
  const mode = (name) => {
    state.mode = name;
    document.querySelectorAll("[data-mode]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.mode === name)));
    legend.dataset.mode = name;
    redraw();
  };

  Plotly.newPlot(box, traces(), layout, config).then(() => {
    motion.hold();
    box.on("plotly_afterplot", motion.hold);
    box.on("plotly_hover", point);
    box.on("plotly_click", point);
    box.on("plotly_unhover", () => { if (!narrow()) card.hidden = true; });
    box.addEventListener("pointerdown", () => { card.hidden = true; }, true);
    box.on("plotly_relayouting", () => { card.hidden = true; });
    let waiting = null;
    search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(look, 150); });
    document.querySelectorAll("[data-mode]").forEach((b) => b.addEventListener("click", () => mode(b.dataset.mode)));
    document.querySelectorAll("[data-anchor]").forEach((b) => b.addEventListener("click", () => {
      choose(Number(b.dataset.anchor));
      if (b.dataset.jump) box.scrollIntoView({ block: "center" });
    }));
    $("map-in").addEventListener("click", () => zoom(0.6));
    $("map-out").addEventListener("click", () => zoom(1 / 0.6));
    $("map-whole").addEventListener("click", () => Plotly.relayout(box, whole()));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    box.dataset.drawn = "yes";
  });
})();
