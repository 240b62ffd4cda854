"""A service on Django with its pool of psycopg's. It knows nothing of poolscope."""

import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path
from psycopg.conninfo import conninfo_to_dict

_server = conninfo_to_dict(os.environ["DATABASE_URL"])

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": _server["host"],
            "PORT": _server["port"],
            "USER": _server["user"],
            "PASSWORD": _server["password"],
            "NAME": _server["dbname"],
            "OPTIONS": {"pool": {"min_size": 1, "max_size": 3, "timeout": 5}},
        }
    },
)


def answer(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("select 'hello'")
        (greeting,) = cursor.fetchone()
    return HttpResponse(greeting)


urlpatterns = [path("", answer)]
app = get_wsgi_application()
