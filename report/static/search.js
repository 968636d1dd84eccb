/* Search: words, their forms and misspellings, and words near them in meaning. Index and related words are scripts, loaded when first needed. */
(function () {
  "use strict";
  var root = document.body.dataset.root || "", box = document.getElementById("q"), hits = document.getElementById("hits");
  var list = document.createElement("div"), tools = document.createElement("p"), note = document.createElement("div");
  var chosen = -1, loading = 0, known = null, before = location.hash;
  var FIELDS = {description: 1, rule: 0.9, aside: 0.6, tuning: 0.7}, SAID = {description: "description", rule: "rule", aside: "rule", tuning: "tuning"};
  var SPEECH = ["adjective", "noun", "verb", "preposition"], LEVELS = ["trusted", "weak", "not scored"];
  var STOP = " a an and are as at by for from in into is it like of on or some sound sounding sounds that the their this to very with ";
  var LEAST = 0.1;  /* of the best result's worth, below which none is shown */
  var asked = {layer: "", trust: "", score: "", pos: "", dead: "", sort: ""};
  function all(selector, within) { return Array.prototype.slice.call((within || document).querySelectorAll(selector)); }
  function element(name, text) { var made = document.createElement(name); made.textContent = text || ""; return made; }
  function plain(text) { return text.toLowerCase().replace(/[_·/\-\s]+/g, " ").trim(); }
  function parts(text) { return text.toLowerCase().match(/[\p{L}]+(?:-[\p{L}]+)*|\d+/gu) || []; }
  function load() {
    if (loading) { return; }
    ["search.js", "related.js"].forEach(function (name) {
      var script = document.createElement("script");
      loading += 1;
      script.src = root + name;
      script.onload = script.onerror = function () { loading -= 1; if (!loading) { loading = -1; find(); } };
      document.head.append(script);
    });
  }

  /* What the scripts hold, unpacked: words with the neurons they are said of, and words that others are near. */
  var DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", place = {};
  DIGITS.split("").forEach(function (digit, at) { place[digit] = at; });
  function unpack(text, each) {
    for (var i = 0, at = -1, value = 0, scale = 1; i < text.length; i++) {
      var digit = place[text[i]];
      value += (digit & 31) * scale;
      scale *= 32;
      if (digit < 32) { at = each ? each(value) : (known.numbers.push(at + value + 1), at + value + 1); value = 0; scale = 1; }
    }
  }
  function numbers(text) { known.numbers = []; unpack(text || ""); return known.numbers; }
  function prepare() {
    var index = window.AURICLE_SEARCH, related = window.AURICLE_RELATED, said = index.said || {w: "", p: {}};
    known = {index: index, related: related, words: {}, stems: {}, near: {}, firsts: [], count: 0, names: [], speech: said.p};
    index.studies.forEach(function (study, s) {
      study.l.forEach(function (layer, l) {
        known.firsts.push([known.count, s, l]);
        (layer[4] || []).forEach(function (name, at) { if (name !== null) { known.names.push([name, parts(name), known.firsts.length - 1, at]); } });
        known.count += layer[2];
      });
    });
    (said.w ? said.w.split(" ") : []).forEach(function (word, at) {
      var its = {posts: {}, df: 0};
      Object.keys(FIELDS).concat("caption").forEach(function (field) {
        if (said[field] && said[field][at]) { its.posts[field] = said[field][at]; }
      });
      known.words[word] = its;
    });
    function name(word) { if (!known.words[word]) { known.words[word] = {posts: {}, df: 0}; } }
    known.classes = index.classes.map(function (c) { return parts(c[0].replace(/_/g, " ")); });
    known.classes.concat(known.names.map(function (n) { return n[1]; }), index.words.map(function (w) { return parts(w[0]); })).forEach(function (its) { its.forEach(name); });
    Object.keys(known.words).forEach(function (word) { var key = stem(word); (known.stems[key] = known.stems[key] || []).push(word); });
    if (related) {
      var own = related.s ? related.s.split(" ") : [], rows = related.n.split(" ");
      own.concat(related.o ? related.o.split(" ") : []).forEach(function (word, at) {
        if (!rows[at]) { return; }
        var pair = [], found = [];
        unpack(rows[at], function (value) { pair.push(value); if (pair.length === 2) { found.push([own[pair[0]], pair[1] / 100]); pair = []; } return -1; });
        known.near[word] = found;
      });
    }
    /* How much is said of each neuron, against the mean. */
    known.length = new Float32Array(known.count);
    Object.keys(known.words).forEach(function (word) { Object.keys(FIELDS).forEach(function (field) { posts(word, field).forEach(function (n) { known.length[n] += 1; }); }); });
    var spoken = known.length.filter(Boolean), mean = spoken.reduce(function (a, b) { return a + b; }, 0) / (spoken.length || 1);
    known.length = known.length.map(function (count) { return count / (mean || 1); });
    known.all = Object.keys(known.words);
    known.others = Object.keys(known.near).filter(function (word) { return !known.words[word]; });
    known.otherStems = {};
    known.others.forEach(function (word) { var key = stem(word); (known.otherStems[key] = known.otherStems[key] || []).push(word); });
  }
  function posts(word, field) {
    var its = known.words[word];
    if (typeof its.posts[field] === "string") { its.posts[field] = numbers(its.posts[field]); }
    return its.posts[field] || [];
  }
  /* How rare a word is among neurons, from 1 down to next to 0. */
  function rarity(word) {
    var its = known.words[word];
    if (!its.rarity) {
      var count = Math.max.apply(null, Object.keys(FIELDS).map(function (field) { return posts(word, field).length; }));
      its.rarity = Math.max(0.05, Math.log((known.count + 1) / (count + 1)) / Math.log(known.count + 1));
    }
    return its.rarity;
  }
  var ENDINGS = ["ingly", "edly", "ings", "ing", "ers", "ies", "ed", "er", "es", "ly", "ic", "al", "s", "y", "e"];
  function stem(word) {
    for (var i = 0; i < ENDINGS.length; i++) {
      var end = ENDINGS[i], rest = word.slice(0, -end.length);
      if (rest.length > 2 && word.slice(-end.length) === end && /[aeiouy]/.test(rest)) { word = rest; break; }
    }
    return word.length > 3 && word[word.length - 1] === word[word.length - 2] ? word.slice(0, -1) : word;
  }
  /* Letters to add, drop, change or swap with their neighbour, if no more than `most` (Damerau 1964). */
  function edits(a, b, most) {
    if (Math.abs(a.length - b.length) > most) { return most + 1; }
    var last = [], row = [], i, j, older;
    for (j = 0; j <= b.length; j++) { row.push(j); }
    for (i = 1; i <= a.length; i++) {
      older = last; last = row; row = [i];
      for (j = 1; j <= b.length; j++) {
        var same = a[i - 1] === b[j - 1];
        row.push(Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0 : 1)));
        if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) { row[j] = Math.min(row[j], older[j - 2] + 1); }
      }
      if (Math.min.apply(null, row) > most) { return most + 1; }
    }
    return row[b.length];
  }
  function misspelt(term, words, each) {
    var most = term.length < 4 ? 0 : term.length < 8 ? 1 : 2;
    if (!most) { return; }
    words.forEach(function (word) {
      var off = edits(term, word, most);
      if (off <= most) { each(word, 0.9 - 0.1 * off); return; }
      if (term.length > 4 && word.length > term.length + 1 && edits(term, word.slice(0, term.length), 1) <= 1) { each(word, 0.6); }
    });
  }
  /* Words of the site that a term may mean: how surely, and by what. */
  function meant(term) {
    var found = {}, bases = [], sure = false;
    function add(word, quality, sign, base) {
      if (asked.pos !== "" && !(known.speech[word] & 1 << asked.pos) || sign === "≈" && STOP.indexOf(" " + word + " ") >= 0) { return; }
      if (!found[word] || found[word].quality < quality) { found[word] = {word: word, quality: quality, sign: sign, base: base || term}; }
    }
    function base(word, quality) { if (known.near[word]) { bases.push([word, quality]); } }
    if (known.words[term]) { add(term, 1, ""); sure = true; }
    base(term, 1);
    (known.stems[stem(term)] || []).forEach(function (word) { if (word !== term) { add(word, 0.95, "="); sure = true; base(word, 0.9); } });
    if (!known.near[term]) { (known.otherStems[stem(term)] || []).forEach(function (word) { base(word, 0.9); }); }
    if (term.length > 2) {
      known.all.forEach(function (word) {
        var at = word.indexOf(term);
        if (word.length > term.length && (at === 0 || at > 0 && term.length > 3)) { add(word, (at === 0 ? 0.85 : 0.6) * Math.sqrt(term.length / word.length), "…"); }
      });
    }
    if (!sure && !known.near[term]) {
      misspelt(term, known.all, function (word, quality) { add(word, quality, "→"); base(word, quality * 0.8); });
      if (!bases.length) { misspelt(term, known.others, function (word, quality) { base(word, quality * 0.8); }); }
    }
    bases.forEach(function (its) {
      known.near[its[0]].forEach(function (near) { if (known.words[near[0]]) { add(near[0], its[1] * (0.15 + 0.55 * near[1]), "≈", term); } });
    });
    return found;
  }
  function terms(text) {
    var words = [], joined = [];
    parts(text.replace(/_/g, " ")).forEach(function (word) { words = words.concat(word.split("-")); });
    var kept = words.filter(function (word) { return STOP.indexOf(" " + word + " ") < 0; });
    kept = kept.length ? kept : words;
    var made = kept.map(function (term) { return {term: term, found: meant(term)}; });
    /* Two words that are one here: high pitched, high-pitched. */
    for (var i = 0; i + 1 < kept.length; i++) {
      joined = kept[i] + "-" + kept[i + 1];
      var exact = known.words[joined] ? joined : "", best = exact ? 1 : 0;
      if (!exact) {
        misspelt(joined, known.all.filter(function (word) { return word.indexOf("-") > 0; }), function (word, quality) { if (quality > best && word.indexOf(kept[i].slice(0, 2)) === 0) { exact = word; best = quality; } });
      }
      if (exact && (asked.pos === "" || known.speech[exact] & 1 << asked.pos)) {
        [made[i], made[i + 1]].forEach(function (its) { its.found[exact] = {word: exact, quality: best, sign: best < 1 ? "→" : "", base: its.term}; });
      }
    }
    /* A term weighs as much as what it means is rare, the surest meanings first. */
    made.forEach(function (its) {
      var sum = 0, share = 0;
      Object.keys(its.found).forEach(function (word) { var sure = Math.pow(its.found[word].quality, 3); sum += sure * rarity(word); share += sure; });
      its.weight = share ? sum / share : 0;
    });
    return made;
  }
  function worth(its, found) { return its.weight * found.quality * (0.85 + 0.15 * rarity(found.word)); }
  function because(its) { return its.sign === "" ? its.word : its.sign === "…" ? its.word : its.base + " " + its.sign + " " + its.word; }

  /* A layer without pages of its neurons has their rows' address in place of its folder. */
  function neuronFile(layer, unit) { return layer[1] + (layer[1].slice(-1) === "=" ? unit : "/" + String(unit).padStart(4, "0") + ".html"); }
  function neuron(s, l, at) {
    var study = known.index.studies[s], layer = study.l[l], unit = layer[3] ? layer[3][at] : at, name = layer[4] ? layer[4][at] : null;
    return {
      text: layer[0] + " · " + unit + (name === null ? "" : " (" + name + ")"), href: study.f + "/" + neuronFile(layer, unit), layer: layer[0],
      same: study.f.split("~")[0] + " " + layer[0] + " " + unit, score: layer[5] ? layer[5][at] : null, level: layer[6] ? LEVELS[layer[6][at]] : "not scored",
      dead: isDead(s, l, at), study: study.t
    };
  }
  function isDead(s, l, at) {
    var study = known.index.studies[s];
    if (!study.d || !study.d[l]) { return false; }
    if (typeof study.d[l] === "string") { study.d[l] = new Set(numbers(study.d[l])); }
    return study.d[l].has(at);
  }
  function passes(item) {
    return (asked.layer === "" || item.layer === asked.layer) && (asked.trust === "" || item.level === "trusted" || asked.trust === "weak" && item.level === "weak") &&
      (asked.score === "" || scored(item) && item.score >= +asked.score) && (asked.dead === "" || !item.dead);
  }
  function scored(item) { return typeof item.score === "number"; }
  function rank(name, wanted) { return name === wanted ? 0 : name.indexOf(wanted) === 0 ? 1 : name.indexOf(" " + wanted) >= 0 ? 2 : name.indexOf(wanted) >= 0 ? 3 : 9; }
  function best(items, key, wanted, limit) {
    return items.map(function (item, order) { return [rank(plain(key(item)), wanted), order, item]; })
      .filter(function (found) { return found[0] < 9; })
      .sort(function (a, b) { return a[0] - b[0] || a[1] - b[1]; })
      .slice(0, limit).map(function (found) { return found[2]; });
  }
  /* A name against the query: its words by what is meant, or its letters. */
  function named(text, words, query, wanted) {
    var value = 0, why = [], used = {};
    query.forEach(function (its) {
      var top = null;
      words.forEach(function (word) { var found = its.found[word]; if (found && (!top || found.quality > top.quality)) { top = found; } });
      if (top) { value += worth(its, top); why.push(because(top)); used[top.word] = 1; }
    });
    value *= 0.7 + 0.3 * Object.keys(used).length / Math.max(1, words.length);
    var letters = asked.pos === "" ? [1.3, 1.15, 1.05, 0.7][rank(plain(text), wanted)] || 0 : 0;
    if (letters * query.length > value) { return {value: letters * query.length, why: ""}; }
    return {value: value, why: why.filter(function (w, i) { return / [=≈→] /.test(w) && why.indexOf(w) === i; }).join(", ")};
  }
  function results(wanted) {
    var index = known.index, several = new Set(index.studies.map(function (study) { return study.f.split("~")[0]; })).size > 1, groups = [], query = terms(box.value);
    function add(title, items, value) { if (items.length) { groups.push([title, items, value]); } }
    function sorted(items) { return items.map(function (item, i) { return [item, i]; }).sort(function (a, b) { return b[0].value - a[0].value || a[1] - b[1]; }).map(function (x) { return x[0]; }); }

    var classes = sorted(index.classes.map(function (c, i) {
      var its = named(c[0], known.classes[i], query, wanted);
      return {text: c[0], note: [c[1], its.why].filter(Boolean).join(", "), href: c[2], value: its.value, why: its.why, entry: c};
    }).filter(function (c) { return c.value > 0.05; }));

    /* Neurons, by what is said of them: for each term the best that is said, rare words more than common ones. */
    var total = new Float32Array(known.count), which = [];
    query.forEach(function (its) {
      var values = new Float32Array(known.count), from = new Int32Array(known.count), options = [];
      Object.keys(its.found).forEach(function (word) {
        Object.keys(FIELDS).forEach(function (field) {
          var value = worth(its, its.found[word]) * FIELDS[field];
          options.push([its.found[word], field]);
          posts(word, field).forEach(function (n) { if (value > values[n]) { values[n] = value; from[n] = options.length; } });
        });
      });
      for (var n = 0; n < known.count; n++) { total[n] += values[n] / (0.75 + 0.25 * known.length[n]); }
      which.push([from, options]);
    });
    var neurons = {};
    function offer(number, value, why) {
      var its = neurons[number] || (neurons[number] = {value: 0, why: []});
      if (value <= 0) { return; }
      its.value = Math.max(its.value, value) + 0.3 * Math.min(its.value, value);
      its.why.push([value, why]);
    }
    var least = LEAST * total.reduce(function (a, b) { return Math.max(a, b); }, 0);
    for (var n = 0; n < known.count; n++) {
      if (total[n] > least && total[n] > 0.02) {
        var whys = {};
        which.forEach(function (its) { var option = its[0][n] && its[1][its[0][n] - 1]; if (option) { (whys[option[1]] = whys[option[1]] || []).push(because(option[0])); } });
        offer(n, total[n], Object.keys(whys).map(function (field) { return SAID[field] + ": " + whys[field].filter(function (w, i) { return whys[field].indexOf(w) === i; }).join(", "); }).join("; "));
      }
    }
    function first(s, l) { for (var i = 0; i < known.firsts.length; i++) { if (known.firsts[i][1] === s && known.firsts[i][2] === l) { return known.firsts[i][0]; } } }
    classes.slice(0, 8).forEach(function (c) {
      c.entry[3].forEach(function (n) { offer(first(n[0], n[1]) + n[2], c.value * (0.3 + 0.7 * n[3]), c.text + ", AP " + n[3].toFixed(2) + (c.why ? " (" + c.why + ")" : "")); });
    });
    known.names.forEach(function (name) {
      var its = named(name[0], name[1], query, wanted);
      if (its.value > 0.05) { offer(known.firsts[name[2]][0] + name[3], its.value, "called so" + (its.why ? " (" + its.why + ")" : "")); }
    });
    function at(number) {
      var low = 0, high = known.firsts.length - 1;
      while (low < high) { var middle = (low + high + 1) >> 1; if (known.firsts[middle][0] <= number) { low = middle; } else { high = middle - 1; } }
      return neuron(known.firsts[low][1], known.firsts[low][2], number - known.firsts[low][0]);
    }
    var found = sorted(Object.keys(neurons).map(function (number) {
      var item = at(+number), its = neurons[number];
      item.value = its.value * (1 + (item.level === "trusted" ? 0.1 : 0) + (scored(item) ? 0.2 * (item.score / 100 - 0.5) : 0));
      item.note = its.why.sort(function (a, b) { return b[0] - a[0]; }).map(function (w) { return w[1]; }).slice(0, 2).join("; ") + (several ? ", " + item.study : "");
      return item;
    }).filter(passes)), seen = {};
    found = found.filter(function (item) { var had = seen[item.same]; seen[item.same] = 1; return !had && item.value >= LEAST * found[0].value; });
    if (asked.sort !== "") { found.sort(function (a, b) { return (scored(b) ? b.score : -1) - (scored(a) ? a.score : -1); }); }

    /* By number, by name of a layer. */
    var numbered = [], layers = [], digits = wanted.match(/^(.*?) ?(\d+)$/);
    index.studies.forEach(function (study, s) {
      study.l.forEach(function (layer, l) {
        if (rank(plain(layer[0]), wanted) < 9) { layers.push({text: layer[0], note: study.t, href: study.f + "/" + layer[1].split("/")[0] + "/index.html", value: -rank(plain(layer[0]), wanted)}); }
        if (digits && (digits[1] === "" || rank(plain(layer[0]), digits[1]) < 9)) {
          var unit = parseInt(digits[2], 10), at = layer[3] ? layer[3].indexOf(unit) : unit;
          if (at >= 0 && at < layer[2]) { var hit = neuron(s, l, at); hit.note = study.t; hit.value = digits[1] ? -rank(plain(layer[0]), digits[1]) : 0; numbered.push(hit); }
        }
      });
    });
    var tops = classes.length ? classes[0].value : 0;
    add("Neurons by number", sorted(numbered.filter(passes)).slice(0, 8), 99);
    add("Layers", sorted(layers).slice(0, 6), layers.length && layers[0].value > -2 && wanted.length > 2 ? 9 : 0.001);
    add("Classes", classes.filter(function (c) { return c.value >= 0.5 * tops && (!found.length || c.value >= LEAST * found[0].value); }).slice(0, 5), tops * 1.1);
    add("Neurons", found.slice(0, 12), found.length ? Math.max(found[0].value, classes.length && found[0].value > 0.5 * tops ? tops : 0) : 0);
    var words = sorted(index.words.map(function (w) {
      var its = named(w[0], parts(w[0]), query, wanted);
      return {text: w[0], note: [w[1], its.why].filter(Boolean).join(", "), href: w[2], value: its.value};
    }).filter(function (w) { return w.value > 0.05; }));
    add("Words of descriptions", words.filter(function (w) { return w.value >= 0.5 * words[0].value; }).slice(0, 5), words.length ? 0.02 + words[0].value / 1000 : 0);
    var clusters = [];
    classes.slice(0, 3).forEach(function (c) {
      (c.entry[4] || []).slice(0, classes.length > 1 ? 3 : 6).forEach(function (n) {
        clusters.push({text: n[1], href: n[2], note: c.text + ", " + (100 * n[3]).toFixed(0) + " %" + (several ? ", " + index.studies[n[0]].t : "")});
      });
    });
    add("Clusters for these classes", clusters, 0.01);
    var clips = best(index.clips, function (c) { return c[0]; }, wanted, 6).map(function (c) { return {text: c[0], note: c[2], href: c[1]}; }), captions = {};
    add("Clips", clips, 0.005);
    query.forEach(function (its) {
      var heard = {};
      Object.keys(its.found).forEach(function (word) { posts(word, "caption").forEach(function (n) {
        var value = its.found[word].quality / Math.sqrt(posts(word, "caption").length);
        if (!heard[n] || heard[n][0] < value) { heard[n] = [value, because(its.found[word])]; }
      }); });
      Object.keys(heard).forEach(function (n) { captions[n] = captions[n] || {value: 0, why: []}; captions[n].value += heard[n][0]; captions[n].why.push(heard[n][1]); });
    });
    add("Clips captioned so", sorted(Object.keys(captions).map(function (n) {
      var c = index.clips[n];
      return {text: c[0], href: c[1], note: c[2] + ", caption: " + captions[n].why.join(", "), value: captions[n].value};
    })).slice(0, 5), 0.004);
    return groups.sort(function (a, b) { return b[2] - a[2]; });
  }

  /* The query and its filters stand in the address. */
  function remember(on) {
    var state = new URLSearchParams();
    state.set("q", box.value.trim());
    Object.keys(asked).forEach(function (name) { if (asked[name] !== "") { state.set(name, asked[name]); } });
    try { history.replaceState(history.state, "", on ? "#" + state : before || location.href.split("#")[0]); } catch (error) { /* then the address stays */ }
  }
  function recall() {
    if (location.hash.indexOf("#q=") !== 0) { before = location.hash; return; }
    var state = new URLSearchParams(location.hash.slice(1));
    before = "";
    box.value = state.get("q");
    Object.keys(asked).forEach(function (name) { asked[name] = state.get(name) || ""; });
    load();
    if (loading < 0) { find(); }
  }
  function narrowing() {
    all("select", tools).forEach(function (select) { select.value = asked[select.name]; });
    all("button", tools).forEach(function (button) { button.setAttribute("aria-pressed", String(asked[button.name] !== "")); });
  }
  function filters() {
    var layers = [], index = known.index, any = index.studies.some(function (study) { return study.l.some(function (layer) { return layer[5]; }); });
    index.studies.forEach(function (study) { study.l.forEach(function (layer) { if (layers.indexOf(layer[0]) < 0) { layers.push(layer[0]); } }); });
    function choice(name, label, options) {
      var select = document.createElement("select");
      select.setAttribute("aria-label", label);
      select.name = name;
      [["", label]].concat(options).forEach(function (option) { select.append(new Option(option[1], option[0])); });
      select.addEventListener("change", function () { asked[name] = select.value; find(); });
      tools.append(select);
    }
    choice("layer", "Any layer", layers.map(function (name) { return [name, name]; }));
    if (any) {
      choice("trust", "Any trust", [["trusted", "Trusted neurons only"], ["weak", "Trusted or weak"]]);
      choice("score", "Any score", [60, 70, 80, 90].map(function (least) { return [least, "Score from " + (least / 100).toFixed(2)]; }));
    }
    if (Object.keys(known.speech).length) { choice("pos", "Any kind of word", SPEECH.map(function (name, at) { return [at, name + "s only"]; })); }
    if (index.studies.some(function (study) { return study.d; })) { tools.append(toggle("Without dead ones", "dead", "Neurons that are 0 for every clip")); }
    if (any) { tools.append(toggle("Sort neurons by score", "sort", "Held-out score of the description: AUROC")); }
  }
  function toggle(text, name, title) {
    var button = element("button", text);
    button.type = "button";
    button.title = title;
    button.name = name;
    button.addEventListener("click", function (event) {
      asked[name] = asked[name] === "" ? "1" : "";
      event.stopPropagation();
      find();
      box.focus();
    });
    return button;
  }
  function find() {
    var wanted = plain(box.value);
    chosen = -1;
    list.replaceChildren();
    note.remove();
    box.removeAttribute("aria-activedescendant");
    if (wanted === "" || !window.AURICLE_SEARCH || loading > 0) { show(false); if (wanted === "") { remember(false); } return; }
    if (!known) { prepare(); filters(); }
    narrowing();
    remember(true);
    var groups = results(wanted), number = 0;
    groups.forEach(function (group) {
      var title = element("div", group[0]);
      title.className = "group";
      title.setAttribute("role", "presentation");
      list.append(title);
      group[1].forEach(function (item) {
        var link = element("a", item.text);
        link.href = root + item.href;
        link.id = "hit-" + number++;
        link.setAttribute("role", "option");
        link.tabIndex = -1;
        link.append(element("span", [item.note, item.dead ? "dead" : "", scored(item) ? (item.level === "trusted" ? "trusted, score " : "score ") + (item.score / 100).toFixed(2) : ""].filter(Boolean).join(", ")));
        list.append(link);
      });
    });
    note.className = "none";
    note.setAttribute("role", "status");
    note.textContent = (groups.length ? "" : "Nothing is called so, nor said to be so. ") + (known.related ? "" : "Words are matched by their letters alone: no text encoder was at hand when this atlas was made.");
    if (note.textContent) { hits.append(note); }
    show(true);
  }
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
  /* A list box holds nothing but what can be chosen: filters, and that nothing was found, stand beside it. */
  list.id = "found";
  ["role", "aria-label"].forEach(function (name) { list.setAttribute(name, hits.getAttribute(name)); hits.removeAttribute(name); });
  hits.append(tools, list);
  box.setAttribute("aria-controls", list.id);
  box.addEventListener("focus", function () { load(); if (box.value) { find(); } });
  box.addEventListener("input", function () { load(); find(); });
  box.addEventListener("keydown", function (event) {
    if (event.key === "ArrowDown") { choose(1); event.preventDefault(); }
    else if (event.key === "ArrowUp") { choose(chosen < 0 ? 0 : -1); event.preventDefault(); }
    else if (event.key === "Enter") { var links = all("a", hits); if (links.length) { links[Math.max(0, chosen)].click(); } event.preventDefault(); }
    else if (event.key === "Escape") { show(false); box.blur(); }
  });
  document.addEventListener("click", function (event) { if (event.isTrusted && !event.target.closest(".search")) { show(false); } });
  window.addEventListener("hashchange", recall);
  recall();
})();
