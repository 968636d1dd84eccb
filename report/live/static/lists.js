/* Lists of neurons and votes, as the warehouse keeps them. */
(function () {
  "use strict";
  var live = window.AURICLE_LIVE, make = live.make, lists = document.getElementById("lists");
  function by(id) { return document.getElementById(id); }
  function link(row) { return row.page ? make("a", {href: "/" + row.page, text: row.title}) : row.title; }
  function table(heads, rows) {
    return make("div", {"class": "scroll"}, [make("table", {"class": "sortable"}, [
      make("thead", {}, [make("tr", {}, heads.map(function (head) { return make("th", {}, head ? [make("button", {type: "button", text: head})] : []); }))]),
      make("tbody", {}, rows.map(function (cells) { return make("tr", {}, cells.map(function (cell) { return make("td", {}, [cell]); })); }))
    ])]);
  }
  function change(values) { return live.post("change", values).then(show).catch(live.fail); }
  function show() {
    return live.get("lists.json").then(function (found) {
      var names = Object.keys(found.lists);
      lists.replaceChildren();
      if (!names.length) { lists.append(make("p", {"class": "note", text: "No list yet: a neuron is added on its page, or above."})); }
      names.forEach(function (name) {
        var sql = "SELECT v_neuron.*, note FROM listed_neuron JOIN neuron_list USING (neuron_list_id) JOIN v_neuron USING (neuron_id)\nWHERE neuron_list.name = '" + name.replace(/'/g, "''") + "'";
        lists.append(make("section", {"class": "list"}, [make("h2", {}, [name, " ", make("small", {text: found.lists[name].length + (found.lists[name].length === 1 ? " neuron" : " neurons")})]), make("p", {"class": "live-links"}, [make("a", {href: live.place(sql), text: "open in console"})]),
          table(["Neuron", "Network", "Note", "Added", ""], found.lists[name].map(function (row) {
            return [link(row), row.network || "", row.note || "", row.added, make("button", {type: "button", "class": "remove", "aria-label": "Remove " + row.title, text: "remove", onclick: function () { change({what: "remove", name: name, neuron: row.neuron}); }})];
          }))]));
      });
      if (found.votes.length) {
        lists.append(make("section", {}, [make("h2", {text: "Votes"}), table(["Neuron", "Network", "Description", "It fits", "It does not", "Who"], found.votes.map(function (row) {
          return [link(row), row.network || "", row.described || "", String(row.fits), String(row.fits_not), row.voters];
        }))]));
      }
    });
  }
  by("adding").addEventListener("submit", function (event) {
    event.preventDefault();
    change({what: "add", name: by("name").value, neuron: parseInt(by("neuron").value, 10), note: by("note").value});
  });
  show().catch(live.fail);
})();
