// Everything in its place.
(function (cryo) {
  const { find, make } = cryo;
  const data = JSON.parse(find("data").textContent);
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;

  cryo.setTheme(system.matches ? "dark" : "light");
  find("theme").addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    cryo.setTheme(chosen);
  });
  system.addEventListener("change", () => {
    if (chosen === null) cryo.setTheme(system.matches ? "dark" : "light");
  });

  cryo.sections.summary(data);
  const motion = cryo.motion(data);
  cryo.sections.sequence(data, motion);
  for (const name of ["measures", "training", "shells", "halves", "orientations", "particles", "examples", "run"])
    cryo.sections[name](data);

  for (const section of document.querySelectorAll("section[data-nav]:not([hidden])")) {
    find("nav").append(make("li", {}, make("a", { href: `#${section.id}` }, section.dataset.nav)));
  }
  document.documentElement.dataset.ready = "yes";
})(window.cryo);
