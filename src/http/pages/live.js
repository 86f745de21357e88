// The pages keep themselves up to date: htmx asks for them every few seconds. Here is what it does not
// do: say when that fails, and keep still while somebody is about to press a button.
(function () {
  "use strict";
  var body = document.body;
  function lost(is) {
    var said = document.getElementById("lost");
    if (said) { said.hidden = !is; }
  }
  body.addEventListener("htmx:beforeRequest", function (event) {
    if (document.querySelector("main details.act[open]")) { event.preventDefault(); }
  });
  body.addEventListener("htmx:afterRequest", function (event) { lost(!event.detail.successful); });
  body.addEventListener("htmx:timeout", function () { lost(true); });
})();
