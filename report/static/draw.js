/* Charts: each page brings rows, charts.js the specifications. */
(function () {
  "use strict";
  var views = [];
  function theme() {
    var style = getComputedStyle(document.documentElement), get = function (name) { return style.getPropertyValue(name).trim(); };
    var ink = get("--ink"), soft = get("--soft"), line = get("--line"), mark = get("--mark"), font = "system-ui, sans-serif";
    var dark = matchMedia("(prefers-color-scheme: dark)").matches;
    return {
      background: "transparent", font: font, view: {stroke: null}, mark: {color: mark},
      axis: {labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: "normal", labelLimit: 150},
      legend: {labelColor: ink, titleColor: soft, orient: "bottom", title: null, labelLimit: 260},
      range: {category: dark ? ["#e8639c", "#fca50a", "#5ec9d6", "#b9a3ff", "#9bd66a", "#e5d352", "#7fb2ff", "#b8a8b0"] : ["#b63679", "#c2570c", "#0b7f8c", "#5b3fb5", "#4c7a1d", "#8a6d00", "#3572c6", "#7a6a72"], heatmap: [get("--raised"), mark]}
    };
  }
  function draw() {
    views.forEach(function (view) { view.finalize(); });
    views = [];
    document.querySelectorAll("[data-chart]").forEach(function (place) {
      var spec = JSON.parse(JSON.stringify(window.AURICLE_CHARTS[place.dataset.chart]));
      spec.data = {values: window.AURICLE_ROWS[place.dataset.rows] || []};
      vegaEmbed(place, spec, {actions: false, renderer: "svg", config: theme(), loader: {target: "_self"}, ast: false}).then(function (made) {
        views.push(made.view);
      });
    });
  }
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
