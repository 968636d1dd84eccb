/* Silencing: neurons are chosen, a sound is chosen or sent, and what becomes of the outputs is drawn. */
(function () {
  "use strict";
  var live = window.AURICLE_LIVE, make = live.make, form = document.getElementById("silencing"), result = document.getElementById("result");
  var runs = [], clips = {}, names = [];
  function by(id) { return document.getElementById(id); }
  function run() { return runs.filter(function (its) { return String(its.run) === by("run").value; })[0]; }
  function layer() { var its = run(); return its && its.layers.filter(function (found) { return String(found.layer) === by("layer").value; })[0]; }
  function layers() {
    by("layer").replaceChildren.apply(by("layer"), run().layers.map(function (its) { return make("option", {value: its.layer, text: its.name + " (" + its.neurons.toLocaleString("en") + ")"}); }));
    note();
    by("clips").replaceChildren();
    clips = {};
    return live.get("clips.json?run=" + by("run").value).then(function (found) {
      names = found.map(function (its) {
        var name = its.name + (its.classes ? " – " + its.classes : "");
        clips[name] = clips[name] || its.clip;
        clips[its.name] = its.clip;
        return name;
      });
      suggest();
      if (!by("clip").value && names.length) { by("clip").value = names[0]; }
    });
  }
  /* A browser draws a long list slowly: the names that fit come as they are typed. */
  function suggest() {
    var wanted = by("clip").value.toLowerCase();
    var fitting = clips[by("clip").value] === undefined ? names.filter(function (name) { return name.toLowerCase().indexOf(wanted) >= 0; }) : names;
    by("clips").replaceChildren.apply(by("clips"), fitting.slice(0, 200).map(function (name) { return make("option", {value: name}); }));
  }
  function note() {
    var its = layer();
    by("units-note").textContent = its ? (its.kind === "position" ? "neuron_id of single positions" : "Numbers 0 to " + (its.neurons - 1) + " of the layer") : "";
  }
  by("run").addEventListener("change", function () { by("clip").value = ""; layers().catch(live.fail); });
  by("layer").addEventListener("change", note);
  by("clip").addEventListener("input", suggest);
  form.addEventListener("submit", function (event) {
    event.preventDefault();
    var data = new FormData(form), file = by("file").files[0], clip = clips[by("clip").value];
    if (!file && clip === undefined) { live.say("No clip is called " + by("clip").value + ": choose one, or a sound of yours.", true); return; }
    if (!file) { data.set("clip", clip); data.delete("file"); }
    form.querySelector(".main").disabled = true;
    live.say("Listening …");
    result.replaceChildren();
    fetch("/live/silence", {method: "POST", body: data}).then(live.answer).then(function (found) { live.say(""); draw(found); }).catch(live.fail)
      .finally(function () { form.querySelector(".main").disabled = false; });
  });
  var SVG = "http://www.w3.org/2000/svg";
  function shape(tag, attributes) {
    var node = document.createElementNS(SVG, tag);
    Object.keys(attributes).forEach(function (name) { node.setAttribute(name, attributes[name]); });
    return node;
  }
  function number(value) { return value === null ? "–" : String(parseFloat(value.toPrecision(4))).replace("-", "−"); }
  function signed(value) { return (value > 0 ? "+" : "") + number(value); }
  function mark(output, low, high) {
    var svg = shape("svg", {viewBox: "0 0 300 16", preserveAspectRatio: "none", role: "img", "aria-label": "intact " + number(output.intact) + ", silenced " + number(output.silenced) + ", random " + number(output.low) + " to " + number(output.high)});
    function x(value) { return 8 + 284 * (high > low ? (value - low) / (high - low) : 0.5); }
    function line(name, from, to) { svg.append(shape("line", {"class": name, x1: x(from), x2: x(to) + 0.01, y1: 8, y2: 8})); }
    line("spread", output.low, output.high);
    line("went", output.intact, output.silenced);
    ["intact", "inside"].forEach(function (name) { line(name, output.intact, output.intact); });
    line("silenced", output.silenced, output.silenced);
    return svg;
  }
  function key(names, length) {
    var svg = shape("svg", {viewBox: "0 0 40 16"});
    names.forEach(function (name) { svg.append(shape("line", {"class": name, x1: 20 - length, x2: 20.01 + length, y1: 8, y2: 8})); });
    return svg;
  }
  function draw(found) {
    var values = [];
    found.outputs.forEach(function (its) { values.push(its.intact, its.silenced, its.low, its.high); });
    var low = Math.min.apply(null, values), high = Math.max.apply(null, values);
    result.append(
      make("h2", {text: found.title}),
      make("p", {text: found.heard}),
      make("p", {"class": "keys"}, [
        make("span", {}, [key(["intact", "inside"], 0), " intact"]), make("span", {}, [key(["silenced"], 0), " silenced"]),
        make("span", {}, [key(["spread"], 12), " " + found.draws + " draws of as many random neurons"])
      ])
    );
    var rows = found.outputs.map(function (its) {
      return make("tr", {"data-output": its.name}, [make("th", {text: its.name}), make("td", {}, [mark(its, low, high)]), make("td", {"class": "n", text: number(its.intact)}), make("td", {"class": "n silenced", text: number(its.silenced)}), make("td", {"class": "n", text: signed(its.silenced - its.intact)}), make("td", {"class": "n", text: signed(its.mean - its.intact)})]);
    });
    function head(text, numeric) { return make("th", numeric ? {"class": "n"} : {}, text ? [make("button", {type: "button", text: text})] : []); }
    result.append(
      make("div", {"class": "scroll"}, [make("table", {"class": "sortable outcome"}, [make("thead", {}, [make("tr", {}, [head("Output"), head(""), head("Intact", true), head("Silenced", true), head("Change", true), head("Random: mean change", true)])]), make("tbody", {}, rows)])]),
      make("p", {"class": "note", text: found.note})
    );
    result.scrollIntoView({block: "nearest"});
  }
  var asked = new URLSearchParams(location.search);
  live.get("runs.json" + (asked.get("neuron") ? "?neuron=" + encodeURIComponent(asked.get("neuron")) : "")).then(function (found) {
    runs = found.runs;
    if (!runs.length) { throw new Error("The warehouse holds no finished run of activations."); }
    by("run").replaceChildren.apply(by("run"), runs.map(function (its) { return make("option", {value: its.run, text: its.title + " (run " + its.run + ")"}); }));
    if (asked.get("run")) { by("run").value = asked.get("run"); }
    if (by("run").selectedIndex < 0) { by("run").selectedIndex = 0; }
    return layers().then(function () {
      if (found.place) { by("layer").value = found.place.layer; by("units").value = found.place.units; note(); }
    });
  }).catch(live.fail);
})();
