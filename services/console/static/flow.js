// The last hour as a chart and a table, and the pipeline at any of its moments.
"use strict";
(() => {
  const place = document.getElementById("chart");
  const rows = document.getElementById("rows");
  const moment = document.getElementById("moment");
  const play = document.getElementById("play");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const clock = new Intl.DateTimeFormat(document.documentElement.lang, { timeZone: "Europe/Paris", timeStyle: "medium", hourCycle: "h23" });
  const widths = [7, 5, 3, 1.5]; // so that lines that lie on top of each other are all seen
  let chart = null;

  const draw = (told) => {
    const data = [told.at, ...Object.values(told.rates)];
    if (chart) return chart.setData(data);
    const line = { stroke: color("--line"), width: 1 };
    const axis = { stroke: color("--soft"), grid: line, ticks: line };
    const unit = place.dataset.unit;
    const lines = Object.keys(told.rates).map((step, number) => ({
      label: told.names[step], stroke: color(`--series-${number + 1}`), width: widths[number], points: { show: false },
      value: (_, rate) => (rate === null ? "–" : `${rate} ${unit}`),
    }));
    chart = new uPlot({
      width: place.clientWidth, height: 260, tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Europe/Paris"),
      axes: [{ ...axis, values: "{HH}:{mm}" }, { ...axis, size: 64, label: unit }],
      series: [{ label: place.dataset.time, value: "{HH}:{mm}:{ss}" }, ...lines],
      scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
    }, data, place);
    window.addEventListener("resize", () => chart.setSize({ width: place.clientWidth, height: 260 }));
  };
  const say = (told) => {
    place.setAttribute("aria-label", place.dataset.summary.replace("{means}", told.means));
    rows.replaceChildren(...told.rows.map(([at, ...rates]) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = at;
      row.append(head, ...rates.map((rate) => {
        const cell = document.createElement("td");
        cell.className = "number";
        cell.textContent = rate;
        return cell;
      }));
      return row;
    }));
  };
  const load = async () => {
    if (document.hidden || live.paused()) return;
    let told;
    try {
      const answer = await fetch(place.dataset.series, { headers: { "HX-Request": "true" }, signal: AbortSignal.timeout(8000) });
      if (!answer.ok) return live.failed("chart", answer.status);
      told = await answer.json();
    } catch {
      return live.failed("chart", 0);
    }
    live.came("chart");
    draw(told);
    say(told);
  };
  const name = () => {
    const at = new Date(Date.now() + 1000 * moment.value);
    moment.setAttribute("aria-valuetext", Number(moment.value) ? clock.format(at) : moment.dataset.liveWord);
  };
  const show = () => {
    name();
    htmx.ajax("GET", `${place.dataset.flow}&ago=${-moment.value}`, { source: moment });
  };

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
  moment.addEventListener("input", name);
  moment.addEventListener("change", show);
  document.getElementById("replay").hidden = false;
  name();
  load();
  setInterval(load, 10000);
})();
