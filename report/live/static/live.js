/* What a server adds to every page: links to its own pages, queries that open in the console, and on a neuron's page its lists and votes. */
(function () {
  "use strict";
  var doc = document.documentElement;
  doc.classList.add("live");
  function all(selector) { return Array.prototype.slice.call(document.querySelectorAll(selector)); }
  function make(tag, attributes, children) {
    var node = document.createElement(tag);
    Object.keys(attributes || {}).forEach(function (name) {
      if (name === "text") { node.textContent = attributes[name]; }
      else if (name.slice(0, 2) === "on") { node.addEventListener(name.slice(2), attributes[name]); }
      else { node.setAttribute(name, attributes[name]); }
    });
    (children || []).forEach(function (child) { node.append(child); });
    return node;
  }
  function answer(response) {
    return response.text().then(function (text) {
      var said;
      try { said = JSON.parse(text); } catch (error) { said = {error: text.trim() || "no answer (" + response.status + ")"}; }
      if (!response.ok || (said && said.error)) { throw new Error(said.error || "no answer (" + response.status + ")"); }
      return said;
    });
  }
  function get(name) { return fetch("/live/" + name).then(answer); }
  function post(name, value) {
    return fetch("/live/" + name, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(value)}).then(answer);
  }
  function say(text, wrong) {
    var said = document.getElementById("said");
    said.textContent = text;
    said.classList.toggle("wrong", !!wrong);
  }
  function fail(error) { say(error.message, true); }
  function place(sql) { return "/live/console.html#sql=" + encodeURIComponent(sql); }
  window.AURICLE_LIVE = {make: make, get: get, post: post, answer: answer, say: say, fail: fail, place: place};

  if (!document.querySelector(".top")) { return; } /* a page of its own, as of ratings */
  /* The page's own script, which comes later, makes some pages' links. */
  document.addEventListener("DOMContentLoaded", function () {
    [["console", "Console"], ["silence", "Silence"], ["listen", "Listen"], ["lists", "Lists"]].forEach(function (page) {
      document.querySelector(".top nav").append(make("a", {href: "/live/" + page[0] + ".html", text: page[1]}));
    });
  });
  all(".recipe").forEach(function (recipe) {
    var code = recipe.querySelector("pre code");
    recipe.querySelector("h2").after(make("p", {"class": "live-links"}, [make("a", {href: place(code.textContent), text: "open in console"})]));
  });
  all("[data-derived]").forEach(function (head) {
    head.after(make("p", {"class": "live-links"}, head.dataset.derived.split(" ").map(function (name) {
      return make("a", {href: "/live/console.html#table=" + encodeURIComponent(name), text: "open " + name + " in console"});
    })));
  });

  var neuron = document.body.dataset.neuron;
  if (!neuron) { return; }
  var box = make("section", {"class": "kept", "aria-label": "Lists and votes"});
  document.querySelector(".headline").after(box);
  function change(values) {
    values.neuron = parseInt(neuron, 10);
    post("change", values).then(show).catch(function (error) { box.querySelector(".note").textContent = error.message; });
  }
  function show() {
    return get("neuron.json?neuron=" + neuron).then(function (known) {
      var name = make("input", {"aria-label": "Name of a list", placeholder: "Name of a list", list: "list-names", maxlength: "200"});
      var names = make("datalist", {id: "list-names"}, known.names.map(function (text) { return make("option", {value: text}); }));
      box.replaceChildren(
        make("a", {href: "/live/silence.html?run=" + document.body.dataset.run + "&neuron=" + neuron, text: "Silence this neuron"}),
        make("form", {onsubmit: function (event) { event.preventDefault(); change({what: "add", name: name.value}); }}, [name, names, make("button", {text: "Add to list"})])
      );
      if (known.lists.length) { box.append(make("span", {}, ["On ", known.lists.join(", "), " ", make("a", {href: "/live/lists.html", text: "lists"})])); }
      if (known.described) {
        var voter = make("input", {"aria-label": "Your name or a code", placeholder: "Your name or a code", maxlength: "200"});
        try { voter.value = localStorage.getItem("auricle-voter") || ""; } catch (error) { /* then it is asked for again */ }
        var vote = function (fits) {
          return function () {
            try { localStorage.setItem("auricle-voter", voter.value); } catch (error) { /* see above */ }
            change({what: "vote", voter: voter.value, fits: fits});
          };
        };
        box.append(make("form", {onsubmit: function (event) { event.preventDefault(); }}, [
          "Does the description fit?", voter, make("button", {type: "button", text: "It fits", onclick: vote(true)}),
          make("button", {type: "button", text: "It does not", onclick: vote(false)}),
          make("span", {text: known.fits + " to " + known.fits_not})
        ]));
      }
      box.append(make("p", {"class": "note", role: "status"}));
    });
  }
  show().catch(function (error) { box.textContent = error.message; });
})();
