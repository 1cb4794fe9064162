// One process for all clients, and no children.
const http = require('http')

http.createServer((request, response) => response.end('Hello, World!\n'))
  .listen(process.env.PORT, '127.0.0.1')
