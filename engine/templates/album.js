document.documentElement.classList.add("js");
const show = (input) => input.closest(".compare").style.setProperty("--at", input.value + "%");
document.addEventListener("input", (event) => show(event.target));
const drag = (event) => {
  const pair = event.target.closest && event.target.closest(".pair");
  if (!pair || !(event.buttons & 1)) return;
  const box = pair.getBoundingClientRect();
  const input = pair.parentElement.querySelector("input");
  input.value = Math.round(100 * (event.clientX - box.left) / box.width);
  show(input);
};
document.addEventListener("pointerdown", drag);
document.addEventListener("pointermove", drag);
document.addEventListener("dragstart", (event) => event.preventDefault());
