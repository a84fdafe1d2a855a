// Loads what the [data-live] parts of a page need, and nothing on pages without. Where that fails, their still picture stays.
for (const part of document.querySelectorAll("[data-live]")) {
  import(new URL(`live/${part.dataset.live}.js`, document.currentScript.src))
    .then((module) => module.default(part))
    .catch((error) => {
      const why = part.querySelector(".live-why");
      if (why) why.textContent = `This picture stays still, since its program could not be loaded (${error.message}).`;
    });
}
