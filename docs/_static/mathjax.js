// An equation wider than its column is drawn smaller, so that none is cut.
(() => {
  const fit = () => {
    for (const equation of document.querySelectorAll('mjx-container[display="true"]')) {
      equation.style.fontSize = "";
      const room = equation.parentElement.clientWidth;
      const width = equation.querySelector("svg").getBoundingClientRect().width;
      if (width > room && room > 0) {
        equation.style.fontSize = `${Math.max(50, Math.floor((98 * room) / width))}%`;
      }
    }
  };
  const given = window.MathJax || {};
  window.MathJax = {
    ...given,
    options: { ...given.options, enableMenu: false },
    startup: {
      pageReady: () => MathJax.startup.defaultPageReady().then(() => {
        fit();
        window.addEventListener("resize", fit);
      }),
    },
  };
})();
