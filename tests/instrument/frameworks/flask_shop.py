"""A service on Flask-SQLAlchemy. It knows nothing of poolscope."""

import os

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"].replace(
    "postgresql:", "postgresql+psycopg:", 1
)
app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 3, "max_overflow": 0}
database = SQLAlchemy(app)


@app.get("/")
def answer() -> str:
    greeting: str = database.session.scalars(text("select 'hello'")).one()
    return greeting
