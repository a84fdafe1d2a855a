const SMALLEST = 0.58;  // of a figure's size: letters of 8 points then have 6 pixels, and the rest of it scrolls

// A box wider than its column scrolls: it fades at an edge beyond which more lies, and the keyboard can reach it.
addEventListener("load", async () => {
  for (const image of document.querySelectorAll("a.image-reference > img"))
    image.style.minWidth = `${SMALLEST * parseFloat(image.style.width)}px`;
  const mark = (box) => {
    const more = box.scrollWidth - box.clientWidth;
    box.classList.toggle("more-before", box.scrollLeft > 1);
    box.classList.toggle("more-after", more - box.scrollLeft > 1);
    if (more > 1) box.tabIndex = 0;
  };
  const resized = new ResizeObserver((boxes) => boxes.forEach((box) => mark(box.target)));
  await window.MathJax?.startup?.promise;
  for (const box of document.querySelectorAll("mjx-container[display], pre, .output, a.image-reference, .table, .pst-scrollable-table-container")) {
    box.addEventListener("scroll", () => mark(box), { passive: true });
    resized.observe(box);
  }
});
