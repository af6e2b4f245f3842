// A click on a figure opens it at full size.
document.addEventListener("click", (event) => {
  if (event.target.matches(".bd-article img")) {
    window.open(event.target.currentSrc || event.target.src);
  }
});
