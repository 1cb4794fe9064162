from flask import Flask

app = Flask(__name__)


@app.get('/hello')
def hello():
    return 'Hello world from Flask!\n', {'Content-Type': 'text/plain'}
