postgres {
  superuser { password = "hunter2 }
}
