/* Players, sortable tables, keys and search. A classic script: browsers refuse modules, workers and fetch on pages opened from a folder. */
(function () {
  "use strict";
  var body = document.body, root = body.dataset.root || "", clipS = parseFloat(body.dataset.clipS) || 5;
  function all(selector, within) { return Array.prototype.slice.call((within || document).querySelectorAll(selector)); }

  /* Sounds: one at a time; a picture plays from where it is clicked. */
  var now = null;
  function stop() { if (now) { now.pause(); } }
  function follow() {
    if (!now) { return; }
    var card = now.closest(".card"), head = card && card.querySelector(".head");
    if (head) {
      var share = (now.currentTime - (parseFloat(card.dataset.start) || 0)) / clipS;
      head.style.left = 100 * Math.min(1, Math.max(0, share)) + "%";
    }
    if (!now.paused) { requestAnimationFrame(follow); }
  }
  function dress(card) {
    var audio = card.querySelector("audio"), box = card.querySelector(".s"), image = box && box.querySelector("img");
    if (!audio || !image) { return; }
    var start = parseFloat(card.dataset.start) || 0, button = document.createElement("button"), head = document.createElement("i");
    button.className = "go";
    button.type = "button";
    button.setAttribute("aria-label", image.alt.replace(/^Spectrogram of/, "Play").replace(/: [^:]*$/, ""));
    head.className = "head";
    box.append(button, head);
    button.addEventListener("click", function (event) {
      var area = box.getBoundingClientRect(), x = event.clientX - area.left, onIcon = !event.detail || (x < 34 && area.bottom - event.clientY < 34);
      if (onIcon && !audio.paused) { audio.pause(); return; }
      if (!onIcon) { seek(audio, start + clipS * x / area.width); }
      else if (audio.ended || !audio.currentTime) { seek(audio, start); }
      audio.play().catch(function () {});
    });
    audio.addEventListener("play", function () {
      if (now && now !== audio) { now.pause(); }
      now = audio;
      card.classList.add("playing");
      requestAnimationFrame(follow);
    });
    audio.addEventListener("pause", function () {
      card.classList.remove("playing");
      card.classList.toggle("paused", !audio.ended);
      if (audio.ended && now === audio) { now = null; }
    });
    audio.addEventListener("error", function () { card.classList.add("broken"); });
  }
  function seek(audio, time) {
    if (audio.readyState > 0) { audio.currentTime = Math.min(time, audio.duration || time); return; }
    audio.addEventListener("loadedmetadata", function () { audio.currentTime = Math.min(time, audio.duration); }, {once: true});
    audio.load();
  }
  /* What neurons' pages leave to this script, to be light: cards' players and lines, lists' pictures, curves, bars. */
  var svg = "http://www.w3.org/2000/svg", digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
  function levels(text) { return text.replace(/\..*/, "").split("").map(function (digit) { return digits.indexOf(digit); }); }
  function drawing(width, height, paths, kind, label) {
    var box = document.createElementNS(svg, "svg");
    box.setAttribute("viewBox", "0 0 " + width + " " + height);
    box.setAttribute("preserveAspectRatio", "none");
    if (kind) { box.setAttribute("class", kind); }
    if (label) { box.setAttribute("role", "img"); box.setAttribute("aria-label", label); } else { box.setAttribute("aria-hidden", "true"); }
    paths.forEach(function (path) {
      var line = document.createElementNS(svg, "path");
      line.setAttribute("d", path[0]);
      if (path[1]) { line.setAttribute("class", path[1]); }
      if (path[2]) { line.style.opacity = path[2]; }
      box.append(line);
    });
    return box;
  }
  function course(text) {
    var found = levels(text), last = found.length - 1;
    return drawing(text.length, 32, [[found.map(function (level, at) {
      var y = Math.round(300 - level * 28 / 6.3) / 10;
      return (at ? "L" + (at + .5) + " " : "M0 " + y + (last ? "H" : "H.5")) + (at ? y : last ? ".5" : "") + (at === last ? "H" + found.length : "");
    }).join("")]]);
  }
  function steps(found, base, gap) { return "M0 " + base + found.map(function (y) { return "V" + y + "h" + (1 - gap) + (gap ? "V" + base + "h" + gap : ""); }).join("") + "V" + base + "z"; }
  function curve(place) {
    var found = levels(place.dataset.c), caption = place.querySelector("figcaption, a, em"), rows = parseInt(place.dataset.rows, 10), label = caption.textContent;
    var quantiles = (place.dataset.q || "").split(",").map(function (share) { return share * found.length / 100; }), height = rows || 63, paths;
    var zero = place.dataset.q ? 0 : found.shift(), heights = found.map(function (level) { return 63 - level; });
    if (rows) {
      paths = found.map(function (level, at) { return ["M" + Math.floor(at / rows) + " " + (rows - 1 - at % rows) + "h1v1h-1z", "bars", level / 63]; });
    } else { paths = [[steps(heights, 63 - zero, place.dataset.q ? .1 : 0), "bars", .8]]; }
    if (place.dataset.q) {
      height = 78;
      paths.push(["M" + quantiles[0] + " 72H" + quantiles[4], "whisker"], ["M" + quantiles[1] + " 72H" + quantiles[3], "box"], ["M" + quantiles[2] + " 67v10", "median"]);
      if (quantiles.length > 5) { paths.push(["M" + quantiles[5] + " 0V63", "zero"]); }
      label = "Histogram of all clips, root of their number, with quartiles, median and 90 % below, from " + label;
    }
    caption.before(drawing(rows ? found.length / rows : found.length, height, paths, place.dataset.q ? "histogram" : "means", label));
    if (caption.tagName === "A") {
      var play = caption.cloneNode(), text = document.createElement("em");
      play.className = "listen";
      play.setAttribute("aria-label", "Play the highest of " + label);
      play.append(picture(caption.href.replace(/.*\/(\w+)\.mp3$/, "$1")));
      text.textContent = label + " ";
      caption.replaceWith(text);
      text.append(play);
    }
  }
  function picture(stem) {
    var image = new Image();
    image.loading = "lazy";
    image.alt = "";
    image.src = root + "spectrograms/" + stem + "-" + body.dataset.view + ".png";
    return image;
  }
  function card(item, line) {
    var link = item.querySelector("a"), its = getComputedStyle(link), stem = /spectrograms\/(\w+?)-/.exec(getComputedStyle(link, "::before").backgroundImage);
    if (!stem || item.className) { return; }
    var box = document.createElement("div"), audio = new Audio(), image = picture(stem[1]), name = its.getPropertyValue("--n").trim();
    box.className = "s";
    item.className = "card";
    item.dataset.start = its.getPropertyValue("--t").trim() || 0;
    item.prepend(box);
    image.alt = "Spectrogram of " + link.textContent + (name.length > 2 ? " clip " + name.slice(1, -1) : "") + ": " + clipS + " s";
    box.append(image);
    if (levels(line).length) { box.append(course(line)); }
    audio.controls = true;
    audio.preload = "none";
    audio.src = root + "audio/" + stem[1] + ".mp3";
    box.after(audio);
    dress(item);
  }
  function cards(list) {
    var items = all("li", list), lines = list.dataset.c || "", width = lines.length / items.length;
    items.forEach(function (item, at) { card(item, lines.slice(at * width, (at + 1) * width)); });
  }
  if (body.dataset.view) {
    document.documentElement.classList.add("js");
    all("ol.cards").forEach(function (list) {
      var folded = list.closest("details");
      if (folded && !folded.open) { folded.addEventListener("toggle", function () { cards(list); }, {once: true}); } else { cards(list); }
    });
    all("[data-c]:not(ol)").forEach(curve);
    all(".profile td:nth-child(2)").forEach(function (cell) { cell.classList.add("bar"); cell.style.setProperty("--v", 100 * (parseFloat(cell.textContent) || 0) + "%"); });
  }
  all(".card").forEach(function (item) { if (!item.querySelector(".go")) { dress(item); } });
  var single = null;
  document.addEventListener("click", function (event) {
    var link = event.target.closest("a.listen");
    if (!link) { return; }
    event.preventDefault();
    var same = single && single.link === link && !single.paused;
    stop();
    if (same) { return; }
    single = new Audio(link.href);
    single.link = link;
    now = single;
    link.classList.add("playing");
    single.onpause = single.onended = single.onerror = function () { link.classList.remove("playing"); };
    single.play().catch(function () { link.classList.remove("playing"); });
  });

  /* Tables: a click on a head sorts by its column; undefined values stay last either way. */
  function value(cell) {
    var text = cell.textContent.trim();
    if (text === "" || text === "–") { return null; }
    var plain = text.replace(/−/g, "-").replace(/,/g, "").replace(/ ?%$/, "");
    return plain !== "" && isFinite(plain) ? parseFloat(plain) : text;
  }
  var collator = new Intl.Collator(undefined, {numeric: true});
  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
  }
  function sort(head) {
    var row = head.parentNode, table = head.closest("table"), index = Array.prototype.indexOf.call(row.children, head), list = table.tBodies[0];
    var state = head.getAttribute("aria-sort"), numbers = head.classList.contains("n");
    var sign = state === "ascending" ? -1 : state === "descending" ? 1 : numbers ? -1 : 1;
    var keyed = Array.prototype.map.call(list.rows, function (item, order) { return [item.cells[index] ? value(item.cells[index]) : null, order, item]; });
    keyed.sort(function (a, b) {
      if (a[0] === null || b[0] === null) { return (a[0] === null) - (b[0] === null) || a[1] - b[1]; }
      return sign * compare(a[0], b[0]) || a[1] - b[1];
    });
    list.append.apply(list, keyed.map(function (key) { return key[2]; }));
    all("th[aria-sort]", row).forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  }
  document.addEventListener("click", function (event) {
    var button = event.target.closest("table.sortable thead button");
    if (button) { sort(button.closest("th")); }
  });
  function said(row) { var cell = row.querySelector(".find"); return cell ? " " + cell.textContent : ""; }
  all("input.filter").forEach(function (input) {
    var table = document.getElementById(input.dataset.table), rows = all("tbody tr", table), count = document.getElementById(input.dataset.table + "-count");
    var choice = document.querySelector('select.filter[data-table="' + input.dataset.table + '"]');
    function level(row) { var cell = row.querySelector(".level"); return cell ? cell.textContent.replace(/ /g, "-") : ""; }
    function apply() {
      var wanted = plain(input.value), chosen = choice ? choice.value : "", shown = 0;
      rows.forEach(function (row) {
        var cells = row.cells;
        row.hidden = chosen !== "" && level(row) !== chosen || wanted !== "" && plain(cells[0].textContent).split(" ").indexOf(wanted) < 0 && plain(cells[0].textContent + " " + cells[2].textContent + said(row)).replace(/^\d+/, "").indexOf(wanted) < 0;
        shown += !row.hidden;
      });
      count.textContent = wanted === "" && chosen === "" ? "" : shown + " of " + rows.length;
    }
    /* A page may lead to the table narrowed: #trust-weak. */
    function narrow() {
      var name = choice && "#" + choice.dataset.name + "-", value = name && location.hash.indexOf(name) === 0 ? location.hash.slice(name.length) : "";
      if (!value || !all("option", choice).some(function (option) { return option.value === value; })) { return; }
      choice.value = value;
      apply();
      document.getElementById("all").scrollIntoView();
    }
    input.addEventListener("input", apply);
    if (choice) { choice.addEventListener("change", apply); }
    if (input.value || (choice && choice.value)) { apply(); }
    narrow();
    window.addEventListener("hashchange", narrow);
  });

  /* The search's box, which serves with scripts alone, and a way past it. */
  function make(text) { var holder = document.createElement("div"); holder.innerHTML = text; return holder.firstElementChild; }
  function link(text, address) { var made = document.createElement("a"); made.textContent = text; made.href = root + address; return made; }
  var top = document.querySelector(".top"), nav = top && top.querySelector("nav"), known = window.AURICLE_HEAD;
  if (top && !nav) {
    nav = make('<nav aria-label="Atlas"></nav>');
    known.links.forEach(function (entry) { nav.append(link(entry[0], entry[1])); });
    top.append(nav);
  }
  if (top && !document.getElementById("q")) {
    nav.before(make('<form class="search" role="search"><input type="search" id="q" autocomplete="off" spellcheck="false" role="combobox" aria-expanded="false" aria-controls="hits" aria-autocomplete="list"><kbd aria-hidden="true">/</kbd><div id="hits" role="listbox" aria-label="Search results" hidden></div></form>'));
    document.getElementById("q").placeholder = known.finds[0];
    document.getElementById("q").setAttribute("aria-label", known.finds[1]);
    document.querySelector(".search").addEventListener("submit", function (event) { event.preventDefault(); });
  }
  if (!document.querySelector(".skip")) { body.prepend(make('<a class="skip" href="' + location.href.replace(/#.*/, "") + '#main">Skip to content</a>')); document.getElementById("main").tabIndex = -1; }
  if (!document.querySelector('[rel="icon"]')) { document.head.append(make('<link rel="icon" href="' + root + 'static/icon.svg">')); }

  /* Search: the index is a script, loaded when it is first needed. */
  var box = document.getElementById("q"), hits = document.getElementById("hits"), list = document.createElement("div"), chosen = -1, loading = false, byScore = false, onlyTrusted = false;
  function plain(text) { return text.toLowerCase().replace(/[_·/\-\s]+/g, " ").trim(); }
  function load() {
    if (loading) { return; }
    loading = true;
    var script = document.createElement("script");
    script.src = root + "search.js";
    script.onload = find;
    document.head.append(script);
  }
  function neuronFile(unit) { return String(unit).padStart(4, "0") + ".html"; }
  function neuron(study, layer, at) {
    var unit = layer[3] ? layer[3][at] : at, name = layer[4] ? layer[4][at] : null;
    return {text: layer[0] + " · " + unit + (name === null ? "" : " (" + name + ")"), href: study.f + "/" + layer[1] + "/" + neuronFile(unit), score: layer[5] ? layer[5][at] : null, trusted: layer[6] ? layer[6][at] === "0" : false};
  }
  /* Without the wish to sort by score, or among equals, the order stays. */
  function front(items, limit, of) {
    function score(item) { return of(item).score; }
    if (onlyTrusted) { items = items.filter(function (item) { return of(item).trusted; }); }
    return (byScore ? items.map(function (item, i) { return [score(item), i, item]; })
      .sort(function (a, b) { return (b[0] === null ? -1 : b[0]) - (a[0] === null ? -1 : a[0]) || a[1] - b[1]; })
      .map(function (found) { return found[2]; }) : items).slice(0, limit);
  }
  function itself(item) { return item; }
  function rank(name, wanted) { return name === wanted ? 0 : name.indexOf(wanted) === 0 ? 1 : name.indexOf(" " + wanted) >= 0 ? 2 : name.indexOf(wanted) >= 0 ? 3 : 9; }
  function best(items, key, wanted, limit) {
    return items.map(function (item, order) { return [rank(plain(key(item)), wanted), order, item]; })
      .filter(function (found) { return found[0] < 9; })
      .sort(function (a, b) { return a[0] - b[0] || a[1] - b[1]; })
      .slice(0, limit).map(function (found) { return found[2]; });
  }
  function results(wanted) {
    var index = window.AURICLE_SEARCH, several = index.studies.length > 1, groups = [];
    function add(title, items) { if (items.length) { groups.push([title, items]); } }
    function at(n) { return neuron(index.studies[n[0]], index.studies[n[0]].l[n[1]], n[2]); }
    var classes = best(index.classes, function (c) { return c[0]; }, wanted, 6), found = [], seen = {};
    add("Classes", classes.map(function (c) { return {text: c[0], note: c[1], href: c[2]}; }));
    classes.slice(0, 3).forEach(function (c) {
      front(c[3], classes.length > 1 ? 5 : 10, at).forEach(function (n) {
        var study = index.studies[n[0]], item = neuron(study, study.l[n[1]], n[2]);
        if (seen[item.href]) { return; }
        seen[item.href] = 1;
        item.note = c[0] + ", AP " + n[3].toFixed(2) + (several ? ", " + study.t : "");
        found.push(item);
      });
    });
    add("Neurons for these classes", front(found, found.length, itself));
    found = [];
    classes.slice(0, 3).forEach(function (c) {
      (c[4] || []).slice(0, classes.length > 1 ? 3 : 6).forEach(function (n) {
        found.push({text: n[1], href: n[2], note: c[0] + ", " + (100 * n[3]).toFixed(0) + " %" + (several ? ", " + index.studies[n[0]].t : "")});
      });
    });
    add("Clusters for these classes", found);
    var words = best(index.words, function (w) { return w[0]; }, wanted, 6);
    add("Words of descriptions", words.map(function (w) { return {text: w[0], note: w[1], href: w[2]}; }));
    found = [];
    words.slice(0, 3).forEach(function (w) {
      front(w[3], words.length > 1 ? 4 : 8, at).forEach(function (n) {
        var study = index.studies[n[0]], item = neuron(study, study.l[n[1]], n[2]);
        if (seen[item.href]) { return; }
        seen[item.href] = 1;
        item.note = w[0] + (several ? ", " + study.t : "");
        found.push(item);
      });
    });
    add("Neurons described so", front(found, found.length, itself));
    var named = [], numbered = [], layers = [], parts = wanted.match(/^(.*?) ?(\d+)$/);
    index.studies.forEach(function (study) {
      study.l.forEach(function (layer) {
        if (rank(plain(layer[0]), wanted) < 9) { layers.push({text: layer[0], note: study.t, href: study.f + "/" + layer[1] + "/index.html", order: rank(plain(layer[0]), wanted)}); }
        (layer[4] || []).forEach(function (name, at) {
          if (name !== null && rank(plain(name), wanted) < 9) { var item = neuron(study, layer, at); item.note = "output of " + study.t; item.order = rank(plain(name), wanted); named.push(item); }
        });
        if (parts && (parts[1] === "" || rank(plain(layer[0]), parts[1]) < 9)) {
          var unit = parseInt(parts[2], 10), at = layer[3] ? layer[3].indexOf(unit) : unit;
          if (at >= 0 && at < layer[2]) { var hit = neuron(study, layer, at); hit.note = study.t; hit.order = parts[1] ? rank(plain(layer[0]), parts[1]) : 0; numbered.push(hit); }
        }
      });
    });
    function ordered(items) { return items.map(function (item, i) { return [item.order, i, item]; }).sort(function (a, b) { return a[0] - b[0] || a[1] - b[1]; }).map(function (x) { return x[2]; }); }
    add("Neurons by name", front(ordered(named), 8, itself));
    add("Neurons by number", front(ordered(numbered), 8, itself));
    add("Layers", ordered(layers).slice(0, 6));
    add("Clips", best(index.clips, function (c) { return c[0]; }, wanted, 8).map(function (c) { return {text: c[0], note: c[2], href: c[1]}; }));
    return groups;
  }
  function find() {
    var wanted = plain(box.value);
    chosen = -1;
    hits.replaceChildren(list);
    list.replaceChildren();
    box.removeAttribute("aria-activedescendant");
    if (wanted === "" || !window.AURICLE_SEARCH) { show(false); return; }
    var groups = results(wanted), number = 0;
    if (onlyTrusted || groups.some(function (group) { return group[1].some(scored); })) {
      var tools = document.createElement("p");
      tools.append(toggle("Trusted neurons only", "Those whose description passes its held-out test", onlyTrusted, function () { onlyTrusted = !onlyTrusted; }),
        toggle("Sort neurons by score", "Held-out score of the description: AUROC", byScore, function () { byScore = !byScore; }));
      hits.prepend(tools);
    }
    groups.forEach(function (group) {
      var title = document.createElement("div");
      title.className = "group";
      title.setAttribute("role", "presentation");
      title.textContent = group[0];
      list.append(title);
      group[1].forEach(function (item) {
        var link = document.createElement("a"), note = document.createElement("span");
        link.href = root + item.href;
        link.id = "hit-" + number++;
        link.setAttribute("role", "option");
        link.tabIndex = -1;
        link.textContent = item.text;
        note.textContent = [item.note, scored(item) ? (item.trusted ? "trusted, score " : "score ") + (item.score / 100).toFixed(2) : ""].filter(Boolean).join(", ");
        link.append(note);
        list.append(link);
      });
    });
    if (!groups.length) {
      var none = document.createElement("div");
      none.className = "none";
      none.setAttribute("role", "status");
      none.textContent = "Nothing is called so.";
      hits.append(none);
    }
    show(true);
  }
  function toggle(text, title, pressed, turn) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.title = title;
    button.setAttribute("aria-pressed", String(pressed));
    button.addEventListener("click", function (event) { turn(); event.stopPropagation(); find(); box.focus(); });
    return button;
  }
  function scored(item) { return typeof item.score === "number"; }
  function show(open) { hits.hidden = !open; box.setAttribute("aria-expanded", String(open)); }
  function choose(step) {
    var links = all("a", hits);
    if (!links.length) { return; }
    if (links[chosen]) { links[chosen].removeAttribute("aria-selected"); }
    chosen = (chosen + step + links.length) % links.length;
    links[chosen].setAttribute("aria-selected", "true");
    links[chosen].scrollIntoView({block: "nearest"});
    box.setAttribute("aria-activedescendant", links[chosen].id);
  }
  /* A list box holds nothing but what can be chosen: the button, and that nothing was found, stand beside it. */
  list.id = "found";
  ["role", "aria-label"].forEach(function (name) { list.setAttribute(name, hits.getAttribute(name)); hits.removeAttribute(name); });
  hits.append(list);
  box.setAttribute("aria-controls", list.id);
  box.addEventListener("focus", function () { load(); if (box.value) { find(); } });
  box.addEventListener("input", function () { load(); find(); });
  box.addEventListener("keydown", function (event) {
    if (event.key === "ArrowDown") { choose(1); event.preventDefault(); }
    else if (event.key === "ArrowUp") { choose(chosen < 0 ? 0 : -1); event.preventDefault(); }
    else if (event.key === "Enter") { var links = all("a", hits); if (links.length) { links[Math.max(0, chosen)].click(); } event.preventDefault(); }
    else if (event.key === "Escape") { show(false); box.blur(); }
  });
  document.addEventListener("click", function (event) { if (!event.target.closest(".search")) { show(false); } });

  /* Keys: / searches, arrows or j and k turn pages, Escape stops the sound. */
  document.addEventListener("keydown", function (event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT|AUDIO)$/.test(event.target.tagName)) { return; }
    if (event.key === "/") { event.preventDefault(); box.focus(); box.select(); return; }
    if (event.key === "Escape") { stop(); return; }
    var way = {ArrowLeft: "prev", k: "prev", ArrowRight: "next", j: "next"}[event.key];
    if (!way || (event.key.length > 1 && event.target.closest(".scroll"))) { return; }
    var link = document.querySelector('[rel="' + way + '"]');
    if (link) { location.href = link.href; }
  });
})();
