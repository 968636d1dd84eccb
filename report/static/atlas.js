/* Players, sortable tables and keys. A classic script: browsers refuse modules, workers and fetch on pages opened from a folder. */
(function () {
  "use strict";
  var body = document.body, root = body.dataset.root || "", clipS = parseFloat(body.dataset.clipS) || 5;
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
  all(".card").forEach(dress);
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
      var name = choice && "#" + choice.dataset.name + "-", value = name && location.hash.indexOf(name) === 0 ? location.hash.slice(name.length) : "";
      if (!value || !all("option", choice).some(function (option) { return option.value === value; })) { return; }
      choice.value = value;
      apply();
      document.getElementById("all").scrollIntoView();
    }
    if (given.has("show")) { input.value = given.get("show"); }
    if (choice && given.has(choice.dataset.name)) { choice.value = given.get(choice.dataset.name); }
    input.addEventListener("input", apply);
    if (choice) { choice.addEventListener("change", apply); }
    if (input.value || (choice && choice.value)) { apply(); }
    filled = true;
    narrow();
    window.addEventListener("hashchange", narrow);
  });

  restore();
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
