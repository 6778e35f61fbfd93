// Says where a table or a picture is wider than the screen.
function tell() {
  for (const box of document.querySelectorAll(".wide, .paper")) {
    const wide = box.scrollWidth > box.clientWidth + 1;
    const atEnd = box.scrollLeft + box.clientWidth >= box.scrollWidth - 1;
    box.classList.toggle("more", wide && !atEnd);
    if (box.nextElementSibling) box.nextElementSibling.hidden = !wide;
  }
}
document.addEventListener("scroll", tell, { capture: true, passive: true });
new ResizeObserver(tell).observe(document.body);
