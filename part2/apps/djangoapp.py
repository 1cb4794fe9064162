from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__)


def hello(request):
    return HttpResponse('Hello world from Django!\n', content_type='text/plain')


urlpatterns = [path('hello', hello)]
app = get_wsgi_application()
