/* The map of neurons: tens of thousands of points written into the pixels of a canvas, which needs no graphics card and no library. */
(function () {
  "use strict";
  var map = window.AURICLE_MAP, root = document.body.dataset.root, count = map.n, NONE = 65535, ROWS = 50, HIT = 14;
  function by(id) { return document.getElementById(id); }
  function make(tag, attributes, children) {
    var node = document.createElement(tag);
    Object.keys(attributes || {}).forEach(function (name) {
      if (name === "text") { node.textContent = attributes[name]; } else { node.setAttribute(name, attributes[name]); }
    });
    (children || []).forEach(function (child) { node.append(child); });
    return node;
  }
  function unpacked(text, kind) {
    var raw = atob(text), bytes = new Uint8Array(raw.length);
    for (var i = 0; i < raw.length; i++) { bytes[i] = raw.charCodeAt(i); }
    return new kind(bytes.buffer);
  }
  var packed = map.columns, xy = unpacked(packed.xy, Uint16Array), ids = unpacked(packed.id, Uint32Array), units = unpacked(packed.unit, Uint32Array);
  var layerOf = unpacked(packed.layer, Uint16Array), clipOf = unpacked(packed.clip, Uint16Array), classOf = unpacked(packed["class"], Uint16Array);
  var clusterOf = unpacked(packed.cluster, Uint16Array), precision = unpacked(packed.precision, Uint8Array), score = unpacked(packed.score, Uint8Array);
  var xs = new Float32Array(count), ys = new Float32Array(count), words = null;
  for (var i = 0; i < count; i++) { xs[i] = xy[2 * i] / NONE; ys[i] = 1 - xy[2 * i + 1] / NONE; }

  /* What points are coloured by: names, each a colour and a shape, or numbers on a ramp. Neither needs red told from green. */
  var NAMED = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "ink"], SHAPES = ["disc", "square", "diamond", "triangle"];
  var RAMP = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
  var colourings = [];
  function tally(column, names) {
    var counts = names.map(function () { return 0; });
    for (var i = 0; i < count; i++) { if (column[i] !== NONE) { counts[column[i]]++; } }
    return counts;
  }
  function named(key, title, names, column) {
    var counts = tally(column, names);
    var order = names.map(function (_, n) { return n; }).filter(function (n) { return counts[n]; });
    order.sort(function (a, b) { return counts[b] - counts[a] || a - b; });
    if (order.length > 1) { colourings.push({key: key, title: title, names: names, column: column, counts: counts, order: order}); }
  }
  function ramped(key, title, values, ends, show) { colourings.push({key: key, title: title, values: values, ends: ends, show: show}); }
  function hundredths(column) {
    var values = new Float32Array(count);
    for (var i = 0; i < count; i++) { values[i] = column[i] === 255 ? NaN : column[i] / 100; }
    return values;
  }
  function some(values) { return values.some(function (value) { return value === value; }); }
  function two(value) { return value.toFixed(2); }
  function hertz(value) { return value >= 1000 ? (value / 1000).toPrecision(2) + " kHz" : value.toPrecision(2) + " Hz"; }
  colourings.push({key: "layer", title: "Layer", layers: true, counts: tally(layerOf, map.layers)});
  named("class", "Best class", map.classes.map(function (c) { return c[0]; }), classOf);
  named("cluster", "Cluster", map.clusters.map(function (c) { return c[0]; }), clusterOf);
  if (map.networks.length > 1) { named("network", "Network", map.networks.map(function (n) { return n[0]; }), layerOf.map(function (layer) { return map.layers[layer][2]; })); }
  var precisions = hundredths(precision), scores = hundredths(score);
  if (some(scores)) { ramped("score", "Held-out score of the description", scores, [0.5, 1], two); }
  if (some(precisions)) { ramped("precision", "Average precision for the best class", precisions, [0, 1], two); }
  var tuned = {};
  Object.keys(map.measures).forEach(function (key) {
    var values = unpacked(map.measures[key][1], Float32Array), low = Infinity, high = 0;
    for (var i = 0; i < count; i++) { if (values[i] > 0) { low = Math.min(low, values[i]); high = Math.max(high, values[i]); } }
    var logs = values.map(function (value) { return value > 0 ? Math.log2(value) : NaN; });
    tuned[key] = values;
    if (low < high) { ramped(key, map.measures[key][0], logs, [Math.log2(low), Math.log2(high)], function (value) { return hertz(Math.pow(2, value)); }); }
  });

  /* What is seen: the middle, from 0 to 1, how much larger than whole, and what is shown; it stands in the address. */
  var seen = {x: 0.5, y: 0.5, z: 1, by: "layer", layers: [], only: []}, current = -1, hovered = -1, walked = [], chosen = null, outline = null;
  var sheet = by("map"), marks = by("marks"), paint = sheet.getContext("2d"), over = marks.getContext("2d");
  var image = null, pixels = null, width = 0, height = 0, ratio = 1, asked = false, shade = new Uint32Array(count), on = new Uint8Array(count), shape = new Uint8Array(count);
  var theme = {}, dark = matchMedia("(prefers-color-scheme: dark)");
  function colouring() { return colourings.filter(function (one) { return one.key === seen.by; })[0] || colourings[0]; }
  function rgb(text) { var n = parseInt(text.slice(1), 16); return [n >> 16, n >> 8 & 255, n & 255]; }
  function pixel(c) { return (255 << 24 | c[2] << 16 | c[1] << 8 | c[0]) >>> 0; }
  function css(c) { return "rgb(" + c.map(Math.round).join(",") + ")"; }
  function six(text) { return text.length === 4 ? text.replace(/[0-9a-f]/g, "$&$&") : text; }
  function readTheme() {
    var style = getComputedStyle(document.documentElement);
    ["raised", "ink", "soft", "line", "mark"].forEach(function (name) { theme[name] = rgb(six(style.getPropertyValue("--" + name).trim())); });
    theme.other = dark.matches ? [84, 77, 93] : [190, 182, 194];
    theme.named = NAMED.map(function (text) { return text === "ink" ? theme.ink : rgb(text); });
    theme.ramp = (dark.matches ? RAMP.slice(3) : RAMP.slice(0, 8)).map(rgb);
  }
  function onRamp(share) {
    var at = Math.max(0, Math.min(1, share)) * (theme.ramp.length - 1), low = Math.min(theme.ramp.length - 2, Math.floor(at)), part = at - low;
    return theme.ramp[low].map(function (value, k) { return Math.round(value + part * (theme.ramp[low + 1][k] - value)); });
  }
  function layerColour(layer) { return onRamp(map.layers.length > 1 ? layer / (map.layers.length - 1) : 0.5); }
  /* Of many names as many as there are colours: those chosen, else the commonest. */
  function shownNames(c) { return (seen.only.length ? seen.only : c.order).slice(0, NAMED.length); }
  function colour() {
    var c = colouring(), inLayer = map.layers.map(function (_, layer) { return !seen.layers.length || seen.layers.indexOf(layer) >= 0; });
    var shown = c.names ? shownNames(c) : [], only = {}, other = pixel(theme.other), layers = map.layers.map(function (_, layer) { return pixel(layerColour(layer)); });
    var place = c.names ? c.names.map(function (_, n) { return shown.indexOf(n); }) : [], palette = theme.named.map(pixel);
    seen.only.forEach(function (n) { only[n] = true; });
    var steps = [];
    for (var s = 0; s < 256; s++) { steps.push(pixel(onRamp(s / 255))); }
    for (var i = 0; i < count; i++) {
      on[i] = inLayer[layerOf[i]] ? 1 : 0;
      shape[i] = 0;
      if (c.layers) { shade[i] = layers[layerOf[i]]; }
      else if (c.names) {
        var at = c.column[i] === NONE ? -1 : place[c.column[i]];
        shade[i] = at < 0 ? other : palette[at];
        shape[i] = at < 0 ? 0 : at % SHAPES.length;
        if (seen.only.length && !only[c.column[i]]) { on[i] = 0; }
      } else {
        var value = c.values[i];
        shade[i] = value === value ? steps[Math.max(0, Math.min(255, Math.round(255 * (value - c.ends[0]) / (c.ends[1] - c.ends[0]))))] : other;
      }
    }
    by("clear").hidden = !seen.layers.length && !seen.only.length;
    draw();
  }
  function inside(kind, x, y, r) {
    if (kind === 1) { return Math.max(Math.abs(x), Math.abs(y)) <= 0.88 * r; }
    if (kind === 2) { return Math.abs(x) + Math.abs(y) <= 1.25 * r; }
    if (kind === 3) { return y <= 0.7 * r && y >= 2 * Math.abs(x) - 1.1 * r; }
    return x * x + y * y <= r * r;
  }
  /* Where a shape of radius r covers pixels: whole ones, and those at its rim with how much of 256. */
  function stamp(kind, r) {
    var reach = Math.ceil(1.3 * r), whole = [], rim = [], part = [];
    for (var y = -reach; y <= reach; y++) {
      for (var x = -reach; x <= reach; x++) {
        var hits = 0;
        for (var k = 0; k < 16; k++) { hits += inside(kind, x + (k % 4) / 4 - 0.375, y + (k >> 2) / 4 - 0.375, r); }
        if (hits === 16) { whole.push(y * width + x); } else if (hits) { rim.push(y * width + x); part.push(hits * 16); }
      }
    }
    return {reach: reach, whole: Int32Array.from(whole), rim: Int32Array.from(rim), part: Int32Array.from(part)};
  }
  function scale() { return seen.z * Math.min(width, height) * 0.96; }
  function radius() { return ratio * Math.min(7, Math.max(1.1, Math.min(4, 180 / Math.sqrt(count))) * Math.pow(seen.z, 0.35)); }
  function points() {
    var k = scale(), left = width / 2 - seen.x * k, top = height / 2 - seen.y * k, r = radius(), faint = pixel(theme.line), wide = width;
    var full = SHAPES.map(function (_, kind) { return stamp(kind, r); }), small = stamp(0, Math.max(0.8, 0.6 * r));
    pixels.fill(pixel(theme.raised));
    /* Left out, then unnamed or unknown, then the rest above. */
    var other = pixel(theme.other);
    for (var pass = 0; pass < 3; pass++) {
      for (var i = 0; i < count; i++) {
        if ((on[i] ? shade[i] === other ? 1 : 2 : 0) !== pass) { continue; }
        var its = pass ? full[shape[i]] : small, c = pass ? shade[i] : faint, reach = its.reach;
        var x = Math.round(left + xs[i] * k), y = Math.round(top + ys[i] * k);
        if (x < reach || y < reach || x >= wide - reach || y >= height - reach) { continue; }
        var at = y * wide + x, n;
        for (n = 0; n < its.whole.length; n++) { pixels[at + its.whole[n]] = c; }
        var red = c & 255, green = c >> 8 & 255, blue = c >> 16 & 255;
        for (n = 0; n < its.rim.length; n++) {
          var to = at + its.rim[n], a = its.part[n], below = pixels[to], r0 = below & 255, g0 = below >> 8 & 255, b0 = below >> 16 & 255;
          pixels[to] = -16777216 | (b0 + ((blue - b0) * a >> 8)) << 16 | (g0 + ((green - g0) * a >> 8)) << 8 | (r0 + ((red - r0) * a >> 8));
        }
      }
    }
    paint.putImageData(image, 0, 0);
  }
  function screen(i) { var k = scale(); return [width / 2 + (xs[i] - seen.x) * k, height / 2 + (ys[i] - seen.y) * k]; }
  function world(x, y) { var k = scale(); return [seen.x + (x * ratio - width / 2) / k, seen.y + (y * ratio - height / 2) / k]; }
  function ring(i, colour, thick) {
    var at = screen(i);
    over.strokeStyle = colour;
    over.lineWidth = thick * ratio;
    over.beginPath();
    over.arc(at[0], at[1], radius() + 3 * ratio, 0, 7);
    over.stroke();
  }
  function overlay() {
    over.clearRect(0, 0, width, height);
    if (outline && outline.length > 1) {
      var k = scale();
      over.strokeStyle = css(theme.mark);
      over.lineWidth = 2 * ratio;
      over.setLineDash([6 * ratio, 4 * ratio]);
      over.beginPath();
      outline.forEach(function (at) { over.lineTo(width / 2 + (at[0] - seen.x) * k, height / 2 + (at[1] - seen.y) * k); });
      over.closePath();
      over.stroke();
      over.setLineDash([]);
    }
    if (document.activeElement === sheet && current < 0) {
      over.strokeStyle = css(theme.soft);
      over.lineWidth = ratio;
      over.beginPath();
      over.moveTo(width / 2 - 8 * ratio, height / 2); over.lineTo(width / 2 + 8 * ratio, height / 2);
      over.moveTo(width / 2, height / 2 - 8 * ratio); over.lineTo(width / 2, height / 2 + 8 * ratio);
      over.stroke();
    }
    if (current >= 0) { ring(current, css(theme.ink), 4); ring(current, css(theme.mark), 2.5); }
    if (hovered >= 0 && hovered !== current) { ring(hovered, css(theme.ink), 1.5); }
  }
  /* Where a fine screen's pixels take too long, those of a coarse one are drawn while the map moves. */
  var fresh = false, coarse = false, cost = 0, SLOW = 14;
  function draw(marksOnly) {
    fresh = fresh || !marksOnly;
    if (asked) { return; }
    asked = true;
    requestAnimationFrame(function () {
      asked = false;
      if (!pixels) { return; }
      var started = performance.now();
      if (fresh) { points(); }
      if (fresh && !coarse) { cost = performance.now() - started; }
      fresh = false;
      overlay();
    });
  }
  function fit() {
    var box = sheet.getBoundingClientRect();
    ratio = Math.min(coarse ? 1 : 2, window.devicePixelRatio || 1);
    width = Math.max(1, Math.round(box.width * ratio));
    height = Math.max(1, Math.round(box.height * ratio));
    [sheet, marks].forEach(function (canvas) { canvas.width = width; canvas.height = height; });
    image = paint.createImageData(width, height);
    pixels = new Int32Array(image.data.buffer);
    draw();
  }

  /* The neuron pointed at, or kept. */
  function title(i) { return map.layers[layerOf[i]][0] + " · " + units[i] + (i in map.names ? " (" + map.names[i] + ")" : ""); }
  function address(i) { var its = map.layers[layerOf[i]][1]; return root + its + (its.slice(-1) === "=" ? units[i] : "/" + String(units[i]).padStart(4, "0") + ".html"); }
  function className(i) { return classOf[i] === NONE ? "" : map.classes[classOf[i]][0]; }
  var told = -2;
  function tell(i, again) {
    var box = by("neuron");
    if (i === told && !again) { return; } /* what plays goes on */
    told = i;
    if (i < 0) { box.replaceChildren(make("p", {"class": "note", text: "Point at a neuron, tap it, or choose one by keys."})); return; }
    var head = make("h2", {}, [make("a", {href: address(i), text: title(i)})]), several = map.networks.length > 1;
    var parts = [head], clip = clipOf[i] === NONE ? null : map.clips[clipOf[i]];
    if (several) { parts.push(make("p", {"class": "note", text: map.networks[map.layers[layerOf[i]][2]][0]})); }
    if (clip && clip[0]) {
      var picture = make("img", {src: root + "spectrograms/" + clip[0] + "-" + map.networks[map.layers[layerOf[i]][2]][1], alt: ""});
      parts.push(make("a", {"class": "listen", href: root + "audio/" + clip[0] + ".mp3", "aria-label": "Play highest clip, " + clip[1]}, [picture]));
    }
    if (clip) { parts.push(make("p", {"class": "note"}, ["Highest clip: ", make("a", {href: root + clip[2], text: clip[1]})])); }
    if (words && words[i]) { parts.push(make("p", {text: words[i]})); }
    if (className(i)) { parts.push(make("p", {}, ["Best class: ", make("a", {href: root + map.classes[classOf[i]][1], text: className(i)}), ", AP " + two(precisions[i])])); }
    if (clusterOf[i] !== NONE) { parts.push(make("p", {}, ["Cluster: ", make("a", {href: root + map.clusters[clusterOf[i]][1], text: map.clusters[clusterOf[i]][0]})])); }
    Object.keys(tuned).forEach(function (key) { if (tuned[key][i] > 0) { parts.push(make("p", {text: map.measures[key][0] + ": " + hertz(tuned[key][i])})); } });
    box.replaceChildren.apply(box, parts);
  }
  function play() { var link = document.querySelector("#neuron .listen"); if (link) { link.click(); } }
  function pick(i, aloud) {
    current = i;
    tell(i);
    draw(true);
    note();
    if (i >= 0 && aloud) { by("heard").textContent = title(i) + (className(i) ? ", best class " + className(i) : "") + (words && words[i] ? ". " + words[i] : ""); }
  }
  function nearest(at, most, allowed) {
    var best = most * most, found = -1;
    for (var i = 0; i < count; i++) {
      var dx = xs[i] - at[0], dy = ys[i] - at[1], d = dx * dx + dy * dy;
      if (d < best && on[i] && (!allowed || allowed(i, dx, dy))) { best = d; found = i; }
    }
    return found;
  }
  function under(event) { var box = sheet.getBoundingClientRect(); return nearest(world(event.clientX - box.left, event.clientY - box.top), HIT * ratio / scale()); }
  function visit(i) {
    if (i < 0) { return; }
    if (walked[walked.length - 1] !== i) { walked.push(i); }
    pick(i, true);
    var at = screen(i), rim = 30 * ratio;
    if (at[0] < rim || at[1] < rim || at[0] > width - rim || at[1] > height - rim) { seen.x = xs[i]; seen.y = ys[i]; moved(); }
  }

  /* Moving and zooming. */
  var resting = 0;
  function moved() {
    seen.z = Math.max(0.7, Math.min(400, seen.z));
    seen.x = Math.max(0, Math.min(1, seen.x));
    seen.y = Math.max(0, Math.min(1, seen.y));
    if (!coarse && ratio > 1 && cost > SLOW) { coarse = true; fit(); }
    draw();
    clearTimeout(resting);
    resting = setTimeout(function () { if (coarse) { coarse = false; fit(); } note(); if (by("listed").open && !chosen) { list(); } }, 250);
  }
  function zoom(factor, x, y) {
    var box = sheet.getBoundingClientRect(), px = x === undefined ? box.width / 2 : x, py = y === undefined ? box.height / 2 : y, before = world(px, py);
    seen.z = Math.max(0.7, Math.min(400, seen.z * factor));
    var after = world(px, py);
    seen.x += before[0] - after[0];
    seen.y += before[1] - after[1];
    moved();
  }
  function whole() { seen.x = seen.y = 0.5; seen.z = 1; moved(); }
  sheet.addEventListener("wheel", function (event) {
    var box = sheet.getBoundingClientRect();
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0018)), event.clientX - box.left, event.clientY - box.top);
  }, {passive: false});
  var fingers = {}, drag = null;
  function held() { return Object.keys(fingers).map(function (id) { return fingers[id]; }); }
  function spread() { var two = held(); return Math.hypot(two[0][0] - two[1][0], two[0][1] - two[1][1]); }
  function local(event) { var box = sheet.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; }
  sheet.addEventListener("pointerdown", function (event) {
    if (event.button) { return; }
    try { sheet.setPointerCapture(event.pointerId); } catch (error) { /* a pointer that is gone */ }
    var at = local(event);
    fingers[event.pointerId] = at;
    if (held().length === 2) { drag = {pinch: spread(), z: seen.z}; outline = chosen ? outline : null; return; }
    drag = {from: at, last: at, far: false, way: event.shiftKey ? "rectangle" : by("lasso").getAttribute("aria-pressed") === "true" ? "lasso" : "move", path: [world(at[0], at[1])]};
  });
  sheet.addEventListener("pointermove", function (event) {
    var at = local(event);
    if (!fingers[event.pointerId]) {
      var i = under(event);
      if (i !== hovered) { hovered = i; tell(i < 0 ? current : i); sheet.classList.toggle("on", i >= 0); draw(true); }
      return;
    }
    fingers[event.pointerId] = at;
    if (!drag) { return; }
    if (drag.pinch) {
      if (held().length === 2) { var all = held(); zoom(drag.z * spread() / drag.pinch / seen.z, (all[0][0] + all[1][0]) / 2, (all[0][1] + all[1][1]) / 2); }
      return;
    }
    drag.far = drag.far || Math.hypot(at[0] - drag.from[0], at[1] - drag.from[1]) > 4;
    if (!drag.far) { return; }
    sheet.classList.toggle("moves", drag.way === "move");
    if (drag.way === "move") {
      seen.x -= (at[0] - drag.last[0]) * ratio / scale();
      seen.y -= (at[1] - drag.last[1]) * ratio / scale();
      drag.last = at;
      moved();
      return;
    }
    var end = world(at[0], at[1]), start = drag.path[0];
    if (drag.way === "lasso") { drag.path.push(end); } else { drag.path = [start, [end[0], start[1]], end, [start[0], end[1]]]; }
    outline = drag.path;
    draw(true);
  });
  function released(event) {
    delete fingers[event.pointerId];
    sheet.classList.remove("moves");
    var was = drag;
    drag = null;
    if (!was || was.pinch || event.type === "pointercancel") { return; }
    if (was.far) { if (was.way !== "move") { choose(was.path); } return; }
    var i = under(event);
    hovered = -1;
    walked = i < 0 ? [] : [i];
    pick(i);
    if (i >= 0) { play(); }
  }
  sheet.addEventListener("pointerup", released);
  sheet.addEventListener("pointercancel", released);
  sheet.addEventListener("pointerleave", function () { if (hovered >= 0) { hovered = -1; tell(current); draw(true); } });
  ["focus", "blur"].forEach(function (name) { sheet.addEventListener(name, function () { draw(true); }); });
  var WAYS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  sheet.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey) { return; }
    var key = event.key, way = WAYS[key], here = current < 0 ? [seen.x, seen.y] : [xs[current], ys[current]];
    if (way && event.shiftKey) {
      visit(nearest(here, 9, function (i, dx, dy) { return i !== current && way[0] * dx + way[1] * dy > Math.abs(way[0] * dy) + Math.abs(way[1] * dx); }));
    } else if (way) { seen.x += way[0] * 0.15 * width / scale(); seen.y += way[1] * 0.15 * height / scale(); moved(); }
    else if (key === "+" || key === "=") { zoom(1.5); }
    else if (key === "-") { zoom(1 / 1.5); }
    else if (key === "0") { whole(); }
    else if (key === "Enter" || key === " ") { if (current < 0) { visit(nearest(here, 9)); } else { play(); } }
    else if (key === "n") { visit(nearest(here, 9, function (i) { return walked.indexOf(i) < 0; })); }
    else if (key === "p") { if (walked.length > 1) { walked.pop(); visit(walked[walked.length - 1]); } }
    else if (key === "l") { inView(); }
    else if (key === "Escape") { unchoose(); walked = []; pick(-1); return; }
    else { return; }
    event.preventDefault();
  });

  /* The legend: a click shows a layer, a class and the like alone, further clicks more of them. */
  function sign(c, kind) {
    var shapes = {disc: "M1 8a7 7 0 1 0 14 0a7 7 0 1 0-14 0", square: "M2 2h12v12h-12z", diamond: "M8 0l8 8-8 8-8-8z", triangle: "M8 1l7 13h-14z"};
    var svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    svg.setAttribute("viewBox", "0 0 16 16");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", shapes[kind]);
    path.setAttribute("fill", css(c));
    svg.append(path);
    return svg;
  }
  function entry(c, kind, text, number, kept, n) {
    var button = make("button", {type: "button", "aria-pressed": String(kept.indexOf(n) >= 0)}, [sign(c, kind), make("span", {text: text}), make("span", {text: number.toLocaleString("en")})]);
    button.addEventListener("click", function () {
      var at = kept.indexOf(n);
      if (at < 0) { kept.push(n); } else { kept.splice(at, 1); }
      var top = by("legend").scrollTop;
      shown();
      by("legend").scrollTop = top;
      var again = by("legend").querySelector('[data-n="' + n + '"]');
      if (again) { again.focus(); }
    });
    button.dataset.n = n;
    return make("li", {}, [button]);
  }
  function legend() {
    var c = colouring(), box = by("legend"), items = [];
    by("legend-title").textContent = c.title;
    by("legend-note").textContent = c.names ? "Click to show some alone; " + (c.order.length > NAMED.length ? "up to seven have colours of their own." : "again to leave them.") : c.layers ? "Click to show some alone." : "";
    if (c.layers) { items = map.layers.map(function (layer, n) { return entry(layerColour(n), "disc", (map.networks.length > 1 ? map.networks[layer[2]][0] + ", " : "") + layer[0], c.counts[n], seen.layers, n); }); }
    else if (c.names) {
      var colours = shownNames(c);
      items = c.order.map(function (n) { var at = colours.indexOf(n); return entry(at < 0 ? theme.other : theme.named[at], SHAPES[Math.max(0, at) % SHAPES.length], c.names[n], c.counts[n], seen.only, n); });
    } else {
      var known = 0, ramp = make("div", {"class": "ramp"});
      for (var i = 0; i < count; i++) { known += c.values[i] === c.values[i]; }
      ramp.style.background = "linear-gradient(to right," + theme.ramp.map(css).join(",") + ")";
      items = [make("li", {}, [ramp, make("p", {"class": "ends"}, [make("span", {text: c.show(c.ends[0])}), make("span", {text: c.show(c.ends[1])})])]), make("li", {}, [make("button", {type: "button", disabled: ""}, [sign(theme.other, "disc"), make("span", {text: "unknown"}), make("span", {text: (count - known).toLocaleString("en")})])])];
    }
    box.replaceChildren.apply(box, items);
  }
  function shown() { legend(); colour(); note(); if (by("listed").open && !chosen) { list(); } }

  /* The list: neurons chosen, or those in view. */
  var listed = [], page = 0, sorted = ["", 1], heads = [["neuron", "Neuron"], ["layer", "Layer"], ["class", "Best class"], ["precision", "AP"], ["score", "Score"], ["said", "Description"]];
  var keys = {
    neuron: function (i) { return title(i); }, layer: function (i) { return layerOf[i]; }, "class": function (i) { return className(i) || null; },
    precision: function (i) { return precision[i] === 255 ? null : precision[i]; }, score: function (i) { return score[i] === 255 ? null : score[i]; },
    said: function (i) { return words && words[i] || null; }
  };
  var collator = new Intl.Collator(undefined, {numeric: true});
  function visible() {
    var k = scale(), found = [], w = width / 2 / k, h = height / 2 / k;
    for (var i = 0; i < count; i++) { if (on[i] && Math.abs(xs[i] - seen.x) <= w && Math.abs(ys[i] - seen.y) <= h) { found.push(i); } }
    return found;
  }
  function list() {
    listed = chosen ? chosen.slice() : visible();
    page = 0;
    arrange();
  }
  function arrange() {
    var key = keys[sorted[0]], sign = sorted[1];
    if (key) {
      var keyed = listed.map(function (i) { return [key(i), i]; });
      keyed.sort(function (a, b) {
        if (a[0] === null || b[0] === null) { return (a[0] === null) - (b[0] === null) || a[1] - b[1]; }
        return sign * (typeof a[0] === "number" ? a[0] - b[0] : collator.compare(a[0], b[0])) || a[1] - b[1];
      });
      listed = keyed.map(function (pair) { return pair[1]; });
    }
    rows();
  }
  function rows() {
    var first = page * ROWS, some = listed.slice(first, first + ROWS), body = by("rows").tBodies[0], head = by("rows").tHead.rows[0];
    by("count").textContent = (chosen ? "Neurons chosen: " : "Neurons in view: ") + listed.length.toLocaleString("en");
    head.replaceChildren.apply(head, heads.map(function (pair) {
      var button = make("button", {type: "button", text: pair[1]}), cell = make("th", {}, [button]);
      if (sorted[0] === pair[0]) { cell.setAttribute("aria-sort", sorted[1] > 0 ? "ascending" : "descending"); }
      button.addEventListener("click", function () {
        sorted = [pair[0], sorted[0] === pair[0] ? -sorted[1] : pair[0] === "precision" || pair[0] === "score" ? -1 : 1];
        page = 0;
        arrange();
        by("rows").tHead.rows[0].cells[heads.indexOf(pair)].firstChild.focus();
      });
      return cell;
    }));
    body.replaceChildren.apply(body, some.map(function (i) {
      return make("tr", {}, [make("th", {scope: "row"}, [make("a", {href: address(i), text: title(i)})])].concat([map.layers[layerOf[i]][0], className(i), precision[i] === 255 ? "–" : two(precisions[i]), score[i] === 255 ? "–" : two(scores[i]), words && words[i] || ""].map(function (text) { return make("td", {text: text}); })));
    }));
    by("page").textContent = listed.length ? (first + 1) + " to " + (first + some.length) + " of " + listed.length.toLocaleString("en") : "none";
    by("back").disabled = !page;
    by("on").disabled = first + ROWS >= listed.length;
    by("keep").hidden = !window.AURICLE_LIVE;
  }
  function contains(path, x, y) {
    var is = false;
    for (var a = 0, b = path.length - 1; a < path.length; b = a++) {
      if ((path[a][1] > y) !== (path[b][1] > y) && x < (path[b][0] - path[a][0]) * (y - path[a][1]) / (path[b][1] - path[a][1]) + path[a][0]) { is = !is; }
    }
    return is;
  }
  function open() { by("listed").open = true; list(); by("heard").textContent = by("count").textContent; }
  function choose(path) {
    chosen = [];
    for (var i = 0; i < count; i++) { if (on[i] && contains(path, xs[i], ys[i])) { chosen.push(i); } }
    outline = path;
    lasso(false);
    open();
    draw(true);
  }
  function unchoose() { chosen = outline = null; if (by("listed").open) { list(); } draw(true); }
  function inView() { chosen = outline = null; open(); draw(true); by("count").focus(); }
  function lasso(pressed) { by("lasso").setAttribute("aria-pressed", String(pressed)); sheet.classList.toggle("chooses", pressed); }
  by("listed").addEventListener("toggle", function () { if (by("listed").open) { list(); } });
  by("back").addEventListener("click", function () { page--; rows(); });
  by("on").addEventListener("click", function () { page++; rows(); });
  by("csv").addEventListener("click", function () {
    function cell(text) { return '"' + String(text === null ? "" : text).replace(/"/g, '""') + '"'; }
    var lines = ["neuron_id,layer,unit,best_class,average_precision,score,description"].concat(listed.map(function (i) {
      return [ids[i], cell(map.layers[layerOf[i]][0]), units[i], cell(className(i)), precision[i] === 255 ? "" : two(precisions[i]), score[i] === 255 ? "" : two(scores[i]), cell(keys.said(i))].join(",");
    }));
    by("csv").href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "text/csv"}));
  });
  by("keep").addEventListener("submit", function (event) {
    event.preventDefault();
    window.AURICLE_LIVE.post("change", {what: "add", name: by("keep-name").value, neuron: listed.map(function (i) { return ids[i]; })})
      .then(function () { by("kept").textContent = listed.length.toLocaleString("en") + " neurons added."; })
      .catch(function (error) { by("kept").textContent = error.message; });
  });

  /* The address: what is seen, so that a link shows what its sender saw. */
  var written = "";
  function note() {
    var c = colouring(), parts = ["x=" + seen.x.toFixed(4), "y=" + seen.y.toFixed(4), "z=" + seen.z.toFixed(2), "by=" + c.key];
    if (seen.layers.length) { parts.push("layers=" + seen.layers.join(",")); }
    if (seen.only.length) { parts.push("only=" + seen.only.join(",")); }
    if (current >= 0) { parts.push("at=" + ids[current]); }
    written = "#" + parts.join("&");
    try { history.replaceState(null, "", written); } catch (error) { /* then the address stays */ }
  }
  function follow() {
    if (location.hash === written) { return; }
    var given = new URLSearchParams(location.hash.slice(1)), at = given.has("at") ? ids.indexOf(parseInt(given.get("at"), 10)) : -1;
    function value(name, otherwise) { var n = parseFloat(given.get(name)); return isFinite(n) ? n : otherwise; }
    function numbers(name, most) { return (given.get(name) || "").split(",").filter(Boolean).map(Number).filter(function (n) { return n >= 0 && n < most && n === Math.floor(n); }); }
    seen.by = given.get("by") || seen.by;
    seen.by = colouring().key;
    seen.layers = numbers("layers", map.layers.length);
    seen.only = colouring().names ? numbers("only", colouring().names.length) : [];
    seen.x = value("x", at < 0 ? 0.5 : xs[at]);
    seen.y = value("y", at < 0 ? 0.5 : ys[at]);
    seen.z = value("z", at < 0 ? 1 : 6);
    current = at;
    walked = at < 0 ? [] : [at];
    by("colour").value = seen.by;
    tell(at);
    moved();
    legend();
    colour();
  }
  window.addEventListener("hashchange", follow);

  colourings.forEach(function (c) { by("colour").append(make("option", {value: c.key, text: c.title})); });
  by("colour").addEventListener("change", function () { seen.by = by("colour").value; seen.only = []; shown(); });
  by("closer").addEventListener("click", function () { zoom(1.5); });
  by("farther").addEventListener("click", function () { zoom(1 / 1.5); });
  by("whole").addEventListener("click", whole);
  by("lasso").addEventListener("click", function () { lasso(by("lasso").getAttribute("aria-pressed") !== "true"); });
  by("list").addEventListener("click", inView);
  by("clear").addEventListener("click", function () { seen.layers = []; seen.only = []; shown(); });
  dark.addEventListener("change", function () { readTheme(); shown(); });
  readTheme();
  tell(-1);
  fit();
  new ResizeObserver(fit).observe(sheet);
  written = " ";
  follow();
  if (document.body.dataset.words) {
    var script = make("script", {src: document.body.dataset.words});
    script.onload = function () { words = window.AURICLE_MAP_WORDS; tell(told, true); if (by("listed").open) { rows(); } };
    document.head.append(script);
  }
})();
