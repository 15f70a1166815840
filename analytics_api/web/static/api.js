// Starts Swagger UI on our own description; nothing is asked of any other server, and no token is kept. A proxy may
// serve all of this below a path of its own, so addresses are relative.

window.ui = window.SwaggerUIBundle({
  url: new URL("../openapi.json", document.currentScript.src).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
  presets: [window.SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
