/* The SQL console: a query is run, cancelled, completed, and kept in the address. */
(function () {
  "use strict";
  var live = window.AURICLE_LIVE, make = live.make, known = {tables: [], functions: [], recipes: [], derived: []}, running = null, last = "";
  function by(id) { return document.getElementById(id); }
  var sql = by("sql"), offers = by("offers"), result = by("result"), schema = by("schema");

  /* Running. */
  function number() { return Array.prototype.map.call(crypto.getRandomValues(new Uint8Array(12)), function (b) { return b.toString(16).padStart(2, "0"); }).join(""); }
  function busy(id) {
    running = id;
    by("run").disabled = !!id;
    by("cancel").disabled = !id;
  }
  function run() {
    var text = sql.value.trim(), id = number(), began = Date.now();
    if (running || !text) { return; }
    close();
    last = text;
    history.replaceState(null, "", "#sql=" + encodeURIComponent(text));
    busy(id);
    live.say("Running …");
    result.replaceChildren();
    by("taking").hidden = true;
    live.post("query", {id: id, sql: text}).then(function (found) {
      show(found);
      live.say(found.count.toLocaleString("en") + (found.count === 1 ? " row" : " rows") + (found.is_cut ? ", the first of more" : "") + ", " + found.seconds.toFixed(2) + " s");
      by("taking").hidden = false;
    }).catch(function (error) {
      live.say(error.message + (error.message === "cancelled" ? " after " + ((Date.now() - began) / 1000).toFixed(1) + " s" : ""), true);
    }).finally(function () { busy(null); });
  }
  function show(found) {
    var numeric = found.columns.map(function (column) { return column[2]; });
    var head = make("tr", {}, found.columns.map(function (column, i) {
      return make("th", numeric[i] ? {"class": "n"} : {}, [make("button", {type: "button", text: column[0], title: column[1]})]);
    }));
    var rows = found.rows.map(function (row) {
      return make("tr", {}, row.map(function (value, i) {
        var cell = make("td", numeric[i] ? {"class": "n"} : {});
        if (value === null) { cell.textContent = "–"; cell.className += " null"; }
        else { cell.textContent = numeric[i] && typeof value === "number" && value % 1 ? short(value) : String(value); if (cell.textContent !== String(value)) { cell.title = value; } }
        return cell;
      }));
    });
    result.replaceChildren(make("table", {"class": "sortable"}, [make("thead", {}, [head]), make("tbody", {}, rows)]));
  }
  function short(value) { return String(parseFloat(value.toPrecision(6))); }
  by("run").addEventListener("click", run);
  by("cancel").addEventListener("click", function () { if (running) { live.post("cancel", {id: running}).catch(live.fail); } });
  window.addEventListener("pagehide", function () {
    if (running) { fetch("/live/cancel", {method: "POST", keepalive: true, headers: {"Content-Type": "application/json"}, body: JSON.stringify({id: running})}); }
  });
  ["csv", "parquet"].forEach(function (format) {
    by(format).addEventListener("click", function () {
      var id = number();
      busy(id);
      live.say("Making the file …");
      fetch("/live/query", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({id: id, sql: last, format: format})})
        .then(function (response) { return response.ok ? response.blob().then(function (blob) { return [blob, response.headers.get("x-cut")]; }) : live.answer(response); })
        .then(function (found) {
          var link = make("a", {download: "result." + format, href: URL.createObjectURL(found[0])});
          link.click();
          setTimeout(function () { URL.revokeObjectURL(link.href); }, 10000);
          live.say(link.download + ", " + found[0].size.toLocaleString("en") + " bytes" + (found[1] === "1" ? ", cut at the most rows that a file may have" : ""));
        }).catch(live.fail).finally(function () { busy(null); });
    });
  });
  by("link").addEventListener("click", function () {
    var address = location.href.split("#")[0] + "#sql=" + encodeURIComponent(last);
    navigator.clipboard.writeText(address).then(function () { live.say("Copied: whoever has this server's token can open it."); },
      function () { live.say(address); });
  });

  /* Completing: tables and columns, after a dot those of the table or of what stands for it. */
  var chosen = 0, from = 0;
  function word() {
    var before = sql.value.slice(0, sql.selectionStart), found = before.match(/(?:([A-Za-z_]\w*)\.)?([A-Za-z_]\w*)?$/);
    return {table: found[1], text: found[2] || "", start: sql.selectionStart - (found[2] || "").length};
  }
  function named(name) {
    var text = sql.value, pattern = /\b(?:from|join)\s+([a-z_]\w*)(?:\s+(?:as\s+)?([a-z_]\w*))?/gi, match, table = name;
    while ((match = pattern.exec(text))) { if ((match[2] || "").toLowerCase() === name.toLowerCase()) { table = match[1]; } }
    return known.tables.filter(function (its) { return its.name === table; })[0];
  }
  function used() {
    var names = {};
    (sql.value.match(/\b(?:from|join)\s+[a-z_]\w*|,\s*[a-z_]\w*/gi) || []).forEach(function (part) { names[part.split(/[\s,]+/).pop().toLowerCase()] = true; });
    return known.tables.filter(function (table) { return names[table.name]; });
  }
  function candidates(at) {
    var wanted = at.text.toLowerCase(), list = [];
    function columns(table) { table.columns.forEach(function (column) { list.push([column[0], table.name + ", " + column[1].toLowerCase()]); }); }
    if (at.table !== undefined) { var table = named(at.table); if (table) { columns(table); } }
    else if (wanted) {
      used().forEach(columns);
      known.tables.forEach(function (table) { list.push([table.name, table.size]); });
      known.functions.forEach(function (name) { list.push([name, "function"]); });
    }
    var seen = {};
    return list.filter(function (item) {
      var fits = item[0].toLowerCase().indexOf(wanted) === 0 && item[0] !== at.text && !seen[item[0]];
      seen[item[0]] = true;
      return fits;
    }).slice(0, 40);
  }
  function offer(at) {
    var list = candidates(at);
    if (!list.length) { close(); return; }
    from = at.start;
    chosen = 0;
    offers.replaceChildren.apply(offers, list.map(function (item, i) {
      return make("li", {role: "option", id: "offer-" + i, "aria-selected": String(!i), onmousedown: function (event) { event.preventDefault(); chosen = i; take(); }}, [item[0], make("span", {text: item[1]})]);
    }));
    var line = sql.value.slice(0, sql.selectionStart).split("\n").length;
    offers.style.top = Math.min(sql.offsetHeight, line * parseFloat(getComputedStyle(sql).lineHeight) + 8 - sql.scrollTop) + "px";
    offers.hidden = false;
    sql.setAttribute("aria-activedescendant", "offer-0");
  }
  function close() { offers.hidden = true; sql.removeAttribute("aria-activedescendant"); }
  function put(text, start, end) {
    sql.setRangeText(text, start, end, "end");
    sql.focus();
  }
  function take() { put(offers.children[chosen].firstChild.textContent, from, sql.selectionStart); close(); }
  sql.addEventListener("input", function () { offer(word()); });
  sql.addEventListener("blur", close);
  sql.addEventListener("keydown", function (event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); return; }
    if (event.key === " " && event.ctrlKey) { event.preventDefault(); offer(word()); return; }
    if (offers.hidden) { return; }
    var step = {ArrowDown: 1, ArrowUp: -1}[event.key], items = offers.children;
    if (step) {
      items[chosen].setAttribute("aria-selected", "false");
      chosen = (chosen + step + items.length) % items.length;
      items[chosen].setAttribute("aria-selected", "true");
      items[chosen].scrollIntoView({block: "nearest"});
      sql.setAttribute("aria-activedescendant", "offer-" + chosen);
    } else if (event.key === "Tab" || event.key === "Enter") { take(); }
    else if (event.key === "Escape") { close(); }
    else { return; }
    event.preventDefault();
  });

  /* The schema beside it, and queries that are ready. */
  function list() {
    var wanted = by("narrow").value.trim().toLowerCase();
    schema.replaceChildren.apply(schema, known.tables.filter(function (table) {
      return !wanted || table.name.indexOf(wanted) >= 0 || table.columns.some(function (column) { return column[0].toLowerCase().indexOf(wanted) >= 0; });
    }).map(function (table) {
      var columns = table.columns.map(function (column) {
        return make("li", {title: column[2] || ""}, [make("button", {type: "button", text: column[0], onclick: function () { put(column[0], sql.selectionStart, sql.selectionEnd); }}), make("small", {text: " " + column[1].toLowerCase()})]);
      });
      var open = make("button", {type: "button", title: "Put FROM " + table.name + " into the query", text: "put"});
      open.addEventListener("click", function () { put(sql.value.trim() ? table.name : "FROM " + table.name, sql.selectionStart, sql.selectionEnd); });
      return make("details", wanted && wanted.length > 2 ? {open: ""} : {}, [make("summary", {title: table.comment || ""}, [make("code", {text: table.name}), make("small", {text: " " + table.size})]), make("ul", {}, [make("li", {}, [open])].concat(columns))]);
    }));
  }
  by("narrow").addEventListener("input", list);
  function load(text) { sql.value = text; close(); run(); }
  function follow() {
    var place = location.hash.match(/^#(sql|table)=(.*)$/);
    if (!place) { return; }
    var text = decodeURIComponent(place[2]);
    if (place[1] === "table") {
      var table = known.derived.filter(function (its) { return its.name === text; })[0];
      if (!table) { live.say("There is no derived table " + text + ".", true); return; }
      text = table.sql;
    }
    if (text !== last || !result.firstChild) { load(text); }
  }
  live.get("schema.json").then(function (found) {
    known = found;
    list();
    [["Cookbook", known.recipes], ["Derived tables", known.derived]].forEach(function (group) {
      by("ready").append(make("optgroup", {label: group[0]}, group[1].map(function (query, i) { return make("option", {value: group[0] + "/" + i, text: query.name}); })));
    });
    follow();
  }).catch(live.fail);
  by("ready").addEventListener("change", function () {
    var parts = this.value.split("/"), query = {"Cookbook": known.recipes, "Derived tables": known.derived}[parts[0]];
    if (query) { load(query[parts[1]].sql); }
  });
  window.addEventListener("hashchange", follow);
})();
