// DaprServer listens on every address of the machine; in tests it is the loopback alone. Loaded with node's --require.

const { Server } = require("node:net");

const { listen } = Server.prototype;
Server.prototype.listen = function (port, ...rest) {
  const named = typeof port !== "number" || typeof rest[0] === "string";
  return named ? listen.call(this, port, ...rest) : listen.call(this, port, "127.0.0.1", ...rest);
};
