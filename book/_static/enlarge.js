// A click on a figure opens it alone, in its own size.
document.addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll(".bd-article img")) {
    if (image.closest("a")) continue;
    const link = document.createElement("a");
    link.href = image.src;
    link.title = "Enlarge";
    image.replaceWith(link);
    link.append(image);
  }
});
