// Loads what the [data-live] parts of a page need, and nothing on pages without. Where that fails, their still picture stays.
const modules = new URL("live/", document.currentScript.src);
document.addEventListener("DOMContentLoaded", () => {
  for (const part of document.querySelectorAll("[data-live]")) {
    import(new URL(`${part.dataset.live}.js`, modules))
      .then((module) => module.default(part))
      .catch((error) => {
        const why = part.querySelector(".live-why");
        if (why) why.textContent = `This picture stays still: its program could not be loaded (${error.message}).`;
      });
  }
});
