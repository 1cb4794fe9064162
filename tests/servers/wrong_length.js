// Counts the characters of its page, and not the bytes: two of them are longer than one byte.
const http = require('http')
const page = '<p>Grüße</p>\n'

http.createServer((request, response) => {
  response.setHeader('Content-Length', page.length)
  response.end(page)
}).listen(process.env.PORT, '127.0.0.1')
