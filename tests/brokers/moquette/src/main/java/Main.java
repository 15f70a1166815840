import io.moquette.broker.Server;
import java.io.File;
import java.io.IOException;

/** Moquette with the configuration file that is the first argument. */
public final class Main {
    public static void main(String[] arguments) throws IOException, InterruptedException {
        Server broker = new Server();
        broker.startServer(new File(arguments[0]));
        Runtime.getRuntime().addShutdownHook(new Thread(broker::stopServer));
        Thread.currentThread().join();
    }
}
