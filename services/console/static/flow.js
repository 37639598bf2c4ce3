// The last hour as a chart, and the pipeline at any of its moments.
"use strict";
(() => {
  const place = document.getElementById("chart");
  const moment = document.getElementById("moment");
  const play = document.getElementById("play");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const dashes = [[], [8, 4], [3, 3], [10, 3, 2, 3]];
  let chart = null;

  const draw = (told) => {
    const data = [told.at, ...Object.values(told.rates)];
    if (chart) return chart.setData(data);
    const axis = { stroke: color("--soft"), grid: { stroke: color("--line") }, ticks: { stroke: color("--line") } };
    const lines = Object.keys(told.rates).map((step, number) => ({
      label: told.names[step], stroke: color(`--series-${number + 1}`), width: 2, dash: dashes[number], points: { show: false },
    }));
    chart = new uPlot({
      width: place.clientWidth, height: 240, axes: [axis, { ...axis, size: 64 }], series: [{ value: "{HH}:{mm}:{ss}" }, ...lines],
      scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
    }, data, place);
    window.addEventListener("resize", () => chart.setSize({ width: place.clientWidth, height: 240 }));
  };
  const load = async () => {
    if (document.hidden) return;
    const answer = await fetch(place.dataset.series, { headers: { "HX-Request": "true" } });
    if (answer.ok) draw(await answer.json());
  };
  const show = () => htmx.ajax("GET", `${place.dataset.flow}&ago=${-moment.value}`, { target: "#flow", swap: "outerHTML" });

  let playing = 0;
  const pause = () => {
    clearInterval(playing);
    playing = 0;
    play.setAttribute("aria-pressed", "false");
  };
  const step = () => {
    if (Number(moment.value) >= 0) return pause();
    moment.value = Number(moment.value) + 10;
    show();
  };
  play.addEventListener("click", () => {
    if (playing) return pause();
    if (Number(moment.value) >= 0) moment.value = moment.min;
    playing = setInterval(step, 400);
    play.setAttribute("aria-pressed", "true");
  });
  moment.addEventListener("change", show);
  document.getElementById("replay").hidden = false;
  load();
  setInterval(load, 10000);
})();
