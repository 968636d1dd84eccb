/* Taking away: tables as CSV, charts as SVG and PNG, lists of neurons, citations. All of it is made in the page, so it works from a folder. */
(function () {
  "use strict";
  var body = document.body, root = body.dataset.root || "", main = document.getElementById("main");
  function all(selector, within) { return Array.prototype.slice.call((within || document).querySelectorAll(selector)); }
  function element(name, text, kind) { var made = document.createElement(name); made.textContent = text || ""; if (kind) { made.className = kind; } return made; }
  function button(text, title, act) { var made = element("button", text); made.type = "button"; made.title = title; made.addEventListener("click", act); return made; }
  function save(name, content, type) {
    var link = element("a"), url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], {type: type}));
    link.href = url;
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(function () { URL.revokeObjectURL(url); }, 10000);
  }
  function named(what) {
    var place = location.pathname.replace(/\.html$/, "").split("/").slice(-3).join(" ");
    return (decodeURIComponent(place) + " " + (what || "")).trim().replace(/[^\p{L}\d.]+/gu, "-").slice(-120).replace(/^-/, "");
  }
  /* Numbers as numbers, undefined as nothing; text that a spreadsheet would run is told to be text. */
  function field(text) {
    text = text.replace(/\s+/g, " ").trim();
    if (/^−[\d.,]+$/.test(text)) { text = "-" + text.slice(1); }
    if (/^-?\d{1,3}(,\d{3})+(\.\d+)?$/.test(text)) { text = text.replace(/,/g, ""); }
    if (text === "–") { text = ""; }
    if (/^[=+@\t]/.test(text) || /^-[^\d.]/.test(text)) { text = "'" + text; }
    return /[",\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  }
  function csv(table) {
    return all("tr", table).filter(function (row) { return !row.hidden; }).map(function (row) {
      return Array.prototype.map.call(row.cells, function (cell) { return field(cell.textContent); }).join(",");
    }).join("\r\n") + "\r\n";
  }
  all("table", main || document).forEach(function (table, at) {
    if (table.rows.length < 2) { return; }
    var heading = table.caption || table.closest("section") && table.closest("section").querySelector("h2") || {textContent: "table " + (at + 1)};
    var place = table.closest(".scroll") || table, line = element("p", "", "take");
    line.append(button("CSV", "This table as it is shown, sorted and narrowed", function () {
      save(named((heading.textContent || "").split(";")[0]) + ".csv", "\ufeff" + csv(table), "text/csv;charset=utf-8");
    }));
    place.after(line);
  });

  /* A drawing as a file of its own: what style sheets say of it is written into it. */
  var LOOK = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight", "text-anchor", "visibility"];
  function whole(drawing) {
    var copy = drawing.cloneNode(true), from = [drawing].concat(all("*", drawing)), to = [copy].concat(all("*", copy)), box = drawing.getBoundingClientRect();
    from.forEach(function (node, i) {
      var style = getComputedStyle(node);
      to[i].setAttribute("style", LOOK.map(function (name) { return name + ":" + style.getPropertyValue(name).replace(/"/g, "'"); }).join(";"));
    });
    all("a", copy).forEach(function (link) { link.removeAttribute("href"); link.removeAttributeNS("http://www.w3.org/1999/xlink", "href"); });
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    if (!copy.getAttribute("viewBox")) { copy.setAttribute("viewBox", "0 0 " + box.width + " " + box.height); }
    copy.setAttribute("width", Math.round(box.width));
    copy.setAttribute("height", Math.round(box.height));
    return new XMLSerializer().serializeToString(copy);
  }
  function png(text, box, done) {
    var image = new Image(), canvas = document.createElement("canvas");
    canvas.width = Math.round(2 * box.width);
    canvas.height = Math.round(2 * box.height);
    image.onload = function () {
      var pen = canvas.getContext("2d");
      pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ground").trim() || "white";
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(done, "image/png");
    };
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  }
  function charted(place, name) {
    function drawing() { return place.matches("svg") ? place : place.querySelector("svg"); }
    var line = element("p", "", "take");
    line.append(button("SVG", "This chart as a drawing", function () { save(named(name) + ".svg", whole(drawing()), "image/svg+xml"); }),
      button("PNG", "This chart as a picture, twice as large as here", function () {
        png(whole(drawing()), drawing().getBoundingClientRect(), function (blob) { save(named(name) + ".png", blob); });
      }));
    var rows = place.dataset && window.AURICLE_ROWS && window.AURICLE_ROWS[place.dataset.rows];
    if (rows && rows.length) {
      line.append(button("CSV", "What it shows", function () {
        var heads = Object.keys(rows[0]).filter(function (head) { return head !== "href"; });
        save(named(name) + ".csv", "\ufeff" + [heads.join(",")].concat(rows.map(function (row) {
          return heads.map(function (head) { return row[head] === null || row[head] === undefined ? "" : field(String(row[head])); }).join(",");
        })).join("\r\n") + "\r\n", "text/csv;charset=utf-8");
      }));
    }
    (place.closest("figure") || place.parentNode).append(line);
  }
  all("[data-chart]").forEach(function (place) { charted(place, place.dataset.rows); });
  all("aside section > svg, .tuned figure > svg").forEach(function (drawing, at) { charted(drawing, "chart " + (at + 1)); });

  /* A citation: the runs that the footer names, with checkpoint, data set and versions. */
  var RUNS = 'a[href*="runs.html#run-"], a[data-run-link]', footer = document.querySelector("body > footer");
  function cited() {
    var runs = [];
    all(RUNS, footer).forEach(function (link) { var run = (link.getAttribute("href") || link.dataset.runLink).split("#run-")[1]; if (runs.indexOf(run) < 0) { runs.push(run); } });
    var made = window.AURICLE_RUNS;
    return [document.title.replace(/ – Auricle$/, "") + ". Atlas made by Auricle " + made.auricle + "."].concat(runs.map(function (run) {
      return (made.runs[run] || ["Run " + run]).join("\n");
    })).join("\n");
  }
  if (footer && footer.querySelector(RUNS)) {
    var block = element("details", "", "cite"), text = element("pre");
    block.append(element("summary", "Cite this page"), text, button("Copy", "Copy the citation", function () {
      var range = document.createRange();
      range.selectNodeContents(text);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      if (navigator.clipboard && window.isSecureContext) { navigator.clipboard.writeText(text.textContent); } else { document.execCommand("copy"); }
    }));
    block.addEventListener("toggle", function () {
      if (text.textContent) { return; }
      if (window.AURICLE_RUNS) { text.textContent = cited(); return; }
      var script = document.createElement("script");
      script.src = root + "cite.js";
      script.onload = function () { text.textContent = cited(); };
      document.head.append(script);
    });
    footer.append(block);
  }

  /* Lists of neurons, in the browser's own storage; a server of the atlas has its own. */
  var home = new URL(root || "./", location.href).href.split(/[?#]/)[0], key = "auricle-lists " + home;
  function lists() { try { return JSON.parse(localStorage.getItem(key)) || {}; } catch (error) { return {}; } }
  function keep(found) { try { localStorage.setItem(key, JSON.stringify(found)); return true; } catch (error) { return false; } }
  function page() { return decodeURIComponent(location.href.split(/[?#]/)[0].slice(home.length)); }
  if (body.dataset.neuron && !window.AURICLE_LIVE && root && main) {
    var line = element("p", "", "take keep"), input = element("input"), said = element("span", "", "note"), title = document.querySelector("h1").textContent, more = element("a", "All lists");
    input.setAttribute("aria-label", "List");
    input.value = Object.keys(lists())[0] || "my neurons";
    more.href = root + "lists.html";
    said.setAttribute("role", "status");
    line.append(input, button("Keep on this list", "Lists are kept by this browser alone; they can be saved to a file", function () {
      var found = lists(), name = input.value.trim() || "my neurons", its = found[name] = Object.prototype.hasOwnProperty.call(found, name) ? found[name] : [];
      if (!its.some(function (entry) { return entry.page === page(); })) { its.push({page: page(), title: title, note: "", added: new Date().toISOString().slice(0, 10)}); }
      said.textContent = keep(found) ? "Kept: " + its.length + " on “" + name + "”." : "This browser keeps nothing for pages from a folder.";
    }), more, said);
    main.append(line);
  }
  var shown = document.getElementById("kept-lists");
  if (shown) { show(); }
  function show() {
    var found = lists(), names = Object.keys(found);
    shown.replaceChildren();
    if (!names.length) { shown.append(element("p", "No list yet: every neuron’s page has a button that keeps it on one.", "note")); }
    names.forEach(function (name) {
      var section = element("section"), items = element("ul", "", "kept");
      section.append(element("h2", name), items);
      found[name].forEach(function (entry) {
        var item = element("li"), link = element("a", entry.title), note = element("input");
        link.href = root + encodeURI(entry.page);
        note.value = entry.note || "";
        note.placeholder = "note";
        note.setAttribute("aria-label", "Note on " + entry.title);
        note.addEventListener("change", function () { entry.note = note.value; keep(found); });
        item.append(link, " ", note, " ", button("Remove", "Remove " + entry.title, function () {
          found[name] = found[name].filter(function (other) { return other !== entry; });
          if (!found[name].length) { delete found[name]; }
          keep(found);
          show();
        }));
        items.append(item);
      });
      shown.append(section);
    });
    var tools = element("p", "", "take"), file = element("input"), said = element("span", "", "note");
    file.type = "file";
    file.accept = ".json,application/json";
    file.setAttribute("aria-label", "A file of lists");
    said.setAttribute("role", "status");
    file.addEventListener("change", function () {
      file.files[0].text().then(function (text) { said.textContent = taken(text); });
    });
    tools.append(button("Save to a file", "All lists as JSON", function () {
      save("auricle-lists.json", JSON.stringify({"auricle lists": 1, lists: lists()}, null, 1), "application/json");
    }), element("span", " Add from a file: "), file, said);
    shown.append(tools);
  }
  /* Only what a list may hold is taken from a file, and only pages of this atlas. */
  function taken(text) {
    var given, found = lists(), count = 0;
    try { given = JSON.parse(text).lists; } catch (error) { return "This is no file of lists."; }
    if (!given || typeof given !== "object") { return "This is no file of lists."; }
    Object.keys(given).forEach(function (name) {
      var its = Object.prototype.hasOwnProperty.call(found, name) ? found[name] : [];
      (Array.isArray(given[name]) ? given[name] : []).forEach(function (entry) {
        if (!entry || typeof entry.page !== "string" || !/^networks\/[^:?#]+\.html$/.test(entry.page) || entry.page.indexOf("..") >= 0) { return; }
        if (its.some(function (other) { return other.page === entry.page; })) { return; }
        its.push({page: entry.page, title: String(entry.title || entry.page).slice(0, 300), note: String(entry.note || "").slice(0, 2000), added: String(entry.added || "").slice(0, 10)});
        count += 1;
      });
      if (its.length) { found[name] = its; }
    });
    keep(found);
    show();
    shown.querySelector(".take .note").textContent = count + (count === 1 ? " neuron" : " neurons") + " added.";
    return shown.querySelector(".take .note").textContent;
  }
})();
