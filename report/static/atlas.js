/* Players, sortable tables and keys. A classic script: browsers refuse modules, workers and fetch on pages opened from a folder. */
(function () {
  "use strict";
  var body = document.body, root = body.dataset.root || "", clipS = parseFloat(body.dataset.clipS) || 5, own = document.currentScript;
  /* page.html?embed: what the page says without what leads elsewhere, to stand in another page or a slide. */
  if (/[?&]embed(&|=|$)/.test(location.search)) { document.documentElement.classList.add("embed"); }
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
      var heard = /\/(\w+)\.mp3$/.exec(caption.href);
      play.append(heard ? picture(heard[1]) : "▶");
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
  /* A string of a style sheet. */
  function text(value) { return value.trim().slice(1, -1).replace(/\\([0-9a-f]{1,6}) ?/gi, function (_, code) { return String.fromCodePoint(parseInt(code, 16)); }); }
  function name(link) { if (!link.textContent) { link.textContent = text(getComputedStyle(link).getPropertyValue("--l")); } }
  function card(item, line) {
    var link = item.querySelector("a"), its = getComputedStyle(link), shown = getComputedStyle(link, "::before").backgroundImage, stem = /spectrograms\/(\w+?)-/.exec(shown);
    if (item.className) { return; }
    name(link);
    var title = text(its.getPropertyValue("--n")), caption = text(its.getPropertyValue("--c"));
    if (caption) { var said = document.createElement("p"); said.textContent = caption; link.after(said); }
    if (!stem) { return; }
    var box = document.createElement("div"), audio = new Audio(), image = picture(stem[1]);
    box.className = "s";
    item.className = "card";
    item.dataset.start = its.getPropertyValue("--t").trim() || 0;
    item.prepend(box);
    image.src = shown.slice(5, -2);
    image.alt = "Spectrogram of " + link.textContent + (title ? " clip " + title : "") + ": " + clipS + " s";
    box.append(image);
    if (levels(line).length) { box.append(course(line)); }
    audio.controls = true;
    audio.preload = "none";
    audio.src = (window.AURICLE_SOUNDS || {})[stem[1]] || root + "audio/" + stem[1] + ".mp3";
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
    all(".others").forEach(function (folded) { folded.addEventListener("toggle", function () { all("a", folded).forEach(name); }, {once: true}); });
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
    if (table.id) { remember("sort", table.id + "." + index + (sign > 0 ? ".up" : ".down")); }
  }
  /* How tables are sorted and narrowed stands in the address, #sort=neurons.3.down&show=dog&trust=weak, for a link to show what its sender saw. */
  function state() { return new URLSearchParams(location.hash.indexOf("=") > 0 ? location.hash.slice(1) : ""); }
  function remember(name, value) {
    var its = state();
    if (value) { its.set(name, value); } else { its.delete(name); }
    try { history.replaceState(history.state, "", String(its) ? "#" + its : location.href.split("#")[0]); } catch (error) { /* then the address stays */ }
  }
  function restore() {
    var wish = (state().get("sort") || "").split("."), table = wish[0] && document.getElementById(wish[0]), head = table && table.tHead && table.tHead.rows[0].cells[+wish[1]];
    if (!head || !head.querySelector("button")) { return; }
    /* sort() turns the way that a head says. */
    head.setAttribute("aria-sort", wish[2] === "up" ? "descending" : "ascending");
    sort(head);
  }
  document.addEventListener("click", function (event) {
    var button = event.target.closest("table.sortable thead button");
    if (button) { sort(button.closest("th")); }
  });
  function said(row) { var cell = row.querySelector(".find"); return cell ? " " + cell.textContent : ""; }
  all("input.filter").forEach(function (input) {
    var table = document.getElementById(input.dataset.table), rows = all("tbody tr", table), count = document.getElementById(input.dataset.table + "-count");
    var choice = document.querySelector('select.filter[data-table="' + input.dataset.table + '"]');
    var filled = false, given = state();
    function level(row) { var cell = row.querySelector(".level"); return cell ? cell.textContent.replace(/ /g, "-") : ""; }
    function apply() {
      var wanted = plain(input.value), chosen = choice ? choice.value : "", shown = 0;
      rows.forEach(function (row) {
        var cells = row.cells;
        row.hidden = chosen !== "" && level(row) !== chosen || wanted !== "" && plain(cells[0].textContent).split(" ").indexOf(wanted) < 0 && plain(cells[0].textContent + " " + cells[2].textContent + said(row)).replace(/^\d+/, "").indexOf(wanted) < 0;
        shown += !row.hidden;
      });
      if (filled) { remember("show", input.value.trim()); if (choice) { remember(choice.dataset.name, chosen); } }
      count.textContent = wanted === "" && chosen === "" ? "" : shown + " of " + rows.length;
    }
    /* A page may lead to the table narrowed: #trust-weak. */
    function narrow() {
      var show = filled && state().get("show");
      if (show && show !== input.value) { input.value = show; apply(); }
      var name = choice && "#" + choice.dataset.name + "-", value = name && location.hash.indexOf(name) === 0 ? location.hash.slice(name.length) : "";
      if (!value || !all("option", choice).some(function (option) { return option.value === value; })) { return; }
      choice.value = value;
      apply();
      document.getElementById("all").scrollIntoView();
    }
    if (given.has("show")) { input.value = given.get("show"); if (location.hash.indexOf("#show=") === 0) { table.scrollIntoView(); } }
    if (choice && given.has(choice.dataset.name)) { choice.value = given.get(choice.dataset.name); }
    input.addEventListener("input", apply);
    if (choice) { choice.addEventListener("change", apply); }
    if (input.value || (choice && choice.value)) { apply(); }
    filled = true;
    narrow();
    window.addEventListener("hashchange", narrow);
  });

  restore();

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

  /* Neurons' pages name this script alone; a page that is one file has the others in it. */
  if (body.dataset.neuron && own && own.src) {
    ["search", "take"].forEach(function (name) { var script = document.createElement("script"); script.async = false; script.src = root + "static/" + name + ".js"; document.head.append(script); });
  }

  function plain(text) { return text.toLowerCase().replace(/[_·/\-\s]+/g, " ").trim(); }

  /* Keys: / searches, arrows or j and k turn pages, Escape stops the sound. */
  document.addEventListener("keydown", function (event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT|AUDIO)$/.test(event.target.tagName)) { return; }
    if (event.key === "/") { var box = document.getElementById("q"); if (!box) { return; } event.preventDefault(); box.focus(); box.select(); return; }
    if (event.key === "Escape") { stop(); return; }
    var way = {ArrowLeft: "prev", k: "prev", ArrowRight: "next", j: "next"}[event.key];
    if (!way || (event.key.length > 1 && event.target.closest(".scroll"))) { return; }
    var link = document.querySelector('[rel="' + way + '"]');
    if (link) { location.href = link.href; }
  });
})();
