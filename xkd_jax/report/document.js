"use strict";
// Light and dark: the system's choice until the button is pressed.
const root = document.documentElement;
const button = document.getElementById("theme");
const system = window.matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
const name = () => { button.textContent = isDark() ? "Light colors" : "Dark colors"; };
button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
system.addEventListener("change", name);
button.hidden = false;
name();

// Clips of a few seconds have one button in place of the browser's controls, which would cover them.
for (const clip of document.querySelectorAll("video.clip, audio.clip")) {
  const play = document.createElement("button");
  const what = clip.dataset.name || "Play";
  play.type = "button";
  play.className = "play";
  const update = () => {
    play.textContent = `${clip.paused ? "\u25b6" : "\u275a\u275a"} ${what}`;
    play.setAttribute("aria-label", `${clip.paused ? "Play" : "Pause"}: ${clip.getAttribute("aria-label")}`);
  };
  const toggle = () => { if (clip.paused) clip.play(); else clip.pause(); };
  play.addEventListener("click", toggle);
  clip.addEventListener("click", toggle);
  for (const event of ["play", "pause", "ended"]) clip.addEventListener(event, update);
  clip.addEventListener("timeupdate", () => {
    play.style.setProperty("--done", `${(100 * clip.currentTime) / (clip.duration || 1)}%`);
  });
  clip.controls = false;
  if (clip.tagName === "AUDIO") clip.style.display = "none";
  clip.after(play);
  update();
}

// One player at a time.
document.addEventListener("play", (event) => {
  for (const other of document.querySelectorAll("video, audio")) {
    if (other !== event.target) other.pause();
  }
}, true);

// Values of a chart at the pointer, or at the step chosen with the arrow keys.
for (const chart of document.querySelectorAll("figure.chart[data-curves]")) {
  const curves = JSON.parse(chart.dataset.curves);
  const [least, most, left, right, width] = JSON.parse(chart.dataset.axis);
  const picture = chart.querySelector("svg");
  const cursor = chart.querySelector(".cursor");
  const output = chart.querySelector("output");
  const steps = [...new Set(curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
  let index = -1;
  const show = (chosen) => {
    index = Math.min(Math.max(chosen, 0), steps.length - 1);
    const step = steps[index];
    const at = left + ((step - least) / Math.max(most - least, 1e-9)) * (right - left);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.removeAttribute("visibility");
    const values = curves.flatMap((curve) => {
      const found = curve.x.indexOf(step);
      return found < 0 ? [] : [`${curve.name} ${curve.y[found].toPrecision(3)}`];
    });
    output.textContent = `step ${step.toLocaleString("en")}: ${values.join(", ")}`;
  };
  const hide = () => { cursor.setAttribute("visibility", "hidden"); output.textContent = ""; };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    const step = least + ((x - left) / (right - left)) * (most - least);
    let nearest = 0;
    steps.forEach((s, i) => { if (Math.abs(s - step) < Math.abs(steps[nearest] - step)) nearest = i; });
    show(nearest);
  });
  picture.addEventListener("pointerleave", hide);
  picture.addEventListener("blur", hide);
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    show(index < 0 && move < 0 ? steps.length - 1 : index + move);
  });
}
