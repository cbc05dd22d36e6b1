document.addEventListener("input", ({ target }) =>
  target.closest(".compare")?.style.setProperty("--cut", `${target.value}%`));
